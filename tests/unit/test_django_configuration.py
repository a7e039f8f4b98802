"""The setting ``MELANGE`` of a Django project: what is wrong in it is said at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from melange import ConfigurationError, ExchangeMessageConsumer
from melange.django.configuration import Configuration
from melange.drivers.memory import InMemoryDriver


@pytest.fixture
def configure(monkeypatch):
    def configure(**settings) -> None:
        monkeypatch.setattr("melange.django.configuration.settings", SimpleNamespace(**settings))

    return configure


def make_consumers() -> list[ExchangeMessageConsumer]:
    driver = InMemoryDriver()
    return [ExchangeMessageConsumer(name, "orders", driver=driver) for name in ("packing", "billing")]


def make_nothing() -> None:
    pass


def test_a_project_without_the_setting_chooses_its_driver_itself(configure) -> None:
    configure()

    configuration = Configuration.of_project()

    assert (configuration.driver, configuration.database) == (None, "default")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("aws", "must be a dict, not str"),
        ({"DRIVERS": "aws"}, "no key 'DRIVERS'.*DRIVER"),
        ({"DRIVER_OPTIONS": {"region": "eu-west-1"}}, "DRIVER_OPTIONS without DRIVER"),
        ({"MIDDLEWARE": ["audit.Audit"]}, "MIDDLEWARE without DRIVER"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_an_error(configure, value, text) -> None:
    configure(MELANGE=value)

    with pytest.raises(ConfigurationError, match=text):
        Configuration.of_project()


def test_a_function_may_return_several_consumers(configure) -> None:
    configure(MELANGE={"CONSUMERS": [f"{__name__}.make_consumers"]})

    consumers = Configuration.of_project().made_consumers()

    assert [consumer.queue.name for consumer in consumers] == ["packing", "billing"]


@pytest.mark.parametrize(
    ("paths", "text"), [([], "is empty"), ([f"{__name__}.make_nothing"], "None, which is not a consumer")]
)
def test_without_a_consumer_the_worker_does_not_start(configure, paths, text) -> None:
    configure(MELANGE={"CONSUMERS": paths})

    with pytest.raises(ConfigurationError, match=text):
        Configuration.of_project().made_consumers()
