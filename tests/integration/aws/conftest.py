"""Runs the tests of this directory on both transports; applies the list of deviations to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.aws.deviations import DEVIATIONS
from melange.drivers.aws import AwsDriver

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    server = os.environ.get("MELANGE_TEST_SERVER") or "melange_server"
    for item in items:
        deviation = DEVIATIONS.get(server, {}).get(getattr(item, "originalname", item.name))
        if deviation and HERE in item.path.parents:
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"{server}: {deviation.rule}"))


@pytest.fixture(params=["direct", "botocore"], autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The transport of drivers that do not name one."""
    monkeypatch.setitem(AwsDriver.__init__.__kwdefaults__, "transport", request.param)
    return request.param


@pytest.fixture
def driver(sns_sqs_server: str) -> Iterator[AwsDriver]:
    with AwsDriver(endpoint_url=sns_sqs_server, call_timeout_seconds=60) as driver:
        yield driver
