"""A driver on the SNS+SQS server, for tests that start processes beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from melange.drivers.aws import AwsDriver


@pytest.fixture
def driver(sns_sqs_server) -> Iterator[AwsDriver]:
    with AwsDriver(endpoint_url=sns_sqs_server) as driver:
        yield driver
