"""Choosing drivers by object, by name, from outside, and the errors on the way."""

import threading
from importlib.metadata import EntryPoint

import pytest

from melange.drivers.memory import InMemoryDriver
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError, NoDriverError, UnknownDriverError
from melange.middleware import Middleware
from melange.testing.clock import ManualClock


@pytest.fixture
def manager() -> DriverManager:
    return DriverManager()


def test_no_driver_chosen_says_what_to_write(manager):
    with pytest.raises(NoDriverError, match=r"use_driver\(driver_name='memory'\)"):
        manager.get_driver()


def test_a_driver_by_name_is_made_and_used(manager):
    driver = manager.use_driver(driver_name="memory")

    assert isinstance(driver, InMemoryDriver)
    assert manager.get_driver() is driver


def test_a_driver_object_is_used_as_it_is(manager):
    driver = InMemoryDriver()

    assert manager.use_driver(driver) is driver
    assert manager.get_driver() is driver


def test_options_reach_the_driver(manager):
    clock = ManualClock()

    driver = manager.use_driver(driver_name="memory", clock=clock)

    assert driver.clock is clock


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(manager):
    with pytest.raises(UnknownDriverError) as caught:
        manager.use_driver(driver_name="memroy")

    assert caught.value.known_names == ["aws", "memory"]
    assert "did you mean 'memory'?" in str(caught.value)


def test_an_unknown_option_names_the_nearest(manager):
    with pytest.raises(ConfigurationError, match=r"no option 'clok'.*did you mean 'clock'"):
        manager.use_driver(driver_name="memory", clok=ManualClock())


def test_the_driver_in_use_stays_when_the_next_choice_fails(manager):
    driver = manager.use_driver(driver_name="memory")

    with pytest.raises(UnknownDriverError):
        manager.use_driver(driver_name="nothing")

    assert manager.get_driver() is driver


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say which driver"),
        ({"driver": InMemoryDriver(), "driver_name": "memory"}, "say which driver"),
        ({"driver": InMemoryDriver(), "clock": 1}, "go with driver_name="),
        ({"driver": "memory"}, "as driver_name="),
    ],
)
def test_contradictory_choices_are_refused(manager, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        manager.use_driver(**arguments)


def test_drivers_can_be_added_under_a_name(manager):
    manager.add_available_drivers(special=InMemoryDriver)

    assert isinstance(manager.use_driver(driver_name="special"), InMemoryDriver)


def test_an_added_driver_goes_before_our_own_of_that_name(manager):
    class Special(InMemoryDriver):
        pass

    manager.add_available_drivers(memory=Special)

    assert isinstance(manager.use_driver(driver_name="memory"), Special)


def test_something_that_makes_no_driver_cannot_be_added(manager):
    with pytest.raises(ConfigurationError, match="class or function"):
        manager.add_available_drivers(special="melange.drivers.memory:InMemoryDriver")


def test_a_function_that_makes_something_else_is_found_out(manager):
    manager.add_available_drivers(special=object)

    with pytest.raises(ConfigurationError, match="not a MessagingDriver"):
        manager.use_driver(driver_name="special")


def test_drivers_of_installed_packages_are_found(manager, monkeypatch):
    point = EntryPoint("other", "melange.drivers.memory:InMemoryDriver", "melange.drivers")
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [point] if group == "melange.drivers" else []
    )

    assert isinstance(manager.use_driver(driver_name="other"), InMemoryDriver)


def test_an_installed_package_cannot_pass_itself_off_as_ours(manager, monkeypatch):
    point = EntryPoint("memory", "nowhere:Driver", "melange.drivers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])

    assert isinstance(manager.use_driver(driver_name="memory"), InMemoryDriver)


def test_an_installed_driver_that_cannot_be_imported_is_a_clear_error(manager, monkeypatch):
    point = EntryPoint("other", "no_such_package:Driver", "melange.drivers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])

    with pytest.raises(
        ConfigurationError, match="'other' could not be imported from 'no_such_package:Driver'"
    ):
        manager.use_driver(driver_name="other")


def test_the_instance_is_one_for_all_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(DriverManager.instance())) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(map(id, found))) == 1


def test_a_prepared_driver_is_created_when_it_is_first_needed(manager):
    made = []

    def make(**options):
        made.append(options)
        return InMemoryDriver()

    manager.add_available_drivers(special=make)
    hook = Middleware()

    manager.prepare_driver("special", middleware=[hook], size=3)
    before = list(made)
    hooks = manager.middleware
    drivers = [manager.get_driver(), manager.get_driver()]

    assert before == []
    assert made == [{"size": 3}]
    assert drivers[0] is drivers[1]
    assert list(hooks) == list(drivers[0].middleware) == [hook]


def test_preparing_an_unknown_driver_fails_at_once(manager):
    with pytest.raises(UnknownDriverError, match="did you mean 'aws'"):
        manager.prepare_driver("awss")


def test_a_prepared_driver_with_an_unknown_option_fails_when_it_is_needed(manager):
    manager.prepare_driver("memory", clok=ManualClock())

    with pytest.raises(ConfigurationError, match=r"no option 'clok'"):
        manager.get_driver()


def test_the_driver_that_is_prepared_last_is_in_use(manager):
    manager.use_driver(InMemoryDriver())
    manager.add_available_drivers(special=lambda: InMemoryDriver(seed=5))

    before = manager.get_driver()
    manager.prepare_driver("special")

    assert manager.get_driver() is not before


def test_preparing_inside_of_an_override_changes_its_middleware_only(manager):
    hook, driver = Middleware(), InMemoryDriver()

    with manager.overriding(driver):
        manager.prepare_driver("aws", middleware=[hook])

        assert manager.get_driver() is driver
    assert list(driver.middleware) == [hook]
