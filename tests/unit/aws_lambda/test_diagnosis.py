"""The checks of a function: each fault that loses or repeats messages silently is found."""

from __future__ import annotations

from typing import Any

import pytest

from melange import (
    NO_DEAD_LETTER_QUEUE,
    ConfigurationError,
    ExchangeMessageConsumer,
    QueueOptions,
    RetryPolicy,
)
from melange.aws_lambda import diagnose
from melange.drivers.inspection import ObservedQueue
from melange.drivers.memory import InMemoryDriver

ARN = "arn:aws:sqs:eu-west-1:123456789012:stock"


class LambdaApi:
    """The two operations of Lambda's API, with answers as AWS documents them."""

    def __init__(self, timeout_seconds: int, **mapping: Any) -> None:
        self._timeout_seconds = timeout_seconds
        self._mappings = (
            [{"UUID": "14e0db71", "EventSourceArn": ARN, "State": "Enabled", **mapping}] if mapping else []
        )

    def get_function_configuration(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803 - AWS's name
        return {"FunctionName": FunctionName, "Timeout": self._timeout_seconds}

    def get_paginator(self, operation: str) -> LambdaApi:
        assert operation == "list_event_source_mappings"
        return self

    def paginate(self, *, FunctionName: str) -> list[dict[str, Any]]:  # noqa: N803
        return [{"EventSourceMappings": self._mappings}, {"EventSourceMappings": []}]


class Broker(InMemoryDriver):
    """A broker whose queue has the settings that a test gives it."""

    def __init__(self, visibility_timeout_seconds: int = 360) -> None:
        super().__init__()
        self._visibility_timeout_seconds = visibility_timeout_seconds

    def inspection(self) -> Any:
        return self

    def queue(self, name: str) -> ObservedQueue:
        queue = self.get_queue(name)
        return ObservedQueue(
            queue.name,
            queue.address,
            ARN,
            retention_seconds=345_600,
            visibility_timeout_seconds=self._visibility_timeout_seconds,
            max_receive_count=queue.max_receive_count,
        )


def found(driver: InMemoryDriver, api: LambdaApi, **options: Any) -> list[tuple[str, str]]:
    consumer = ExchangeMessageConsumer("stock", "orders", driver=driver, **options)
    return [(one.check, one.severity) for one in diagnose("packing", consumer, lambda_client=api)]


WELL = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


def test_a_function_without_faults_has_no_findings() -> None:
    assert found(Broker(360), LambdaApi(60, **WELL)) == []


def test_failures_that_lambda_would_ignore_are_an_error() -> None:
    assert found(Broker(), LambdaApi(60, FunctionResponseTypes=[])) == [("partial-batches", "error")]


def test_a_queue_that_nothing_is_connected_to_is_an_error() -> None:
    assert found(Broker(), LambdaApi(60)) == [("event-source", "error")]


def test_a_mapping_that_is_disabled_is_found() -> None:
    assert found(Broker(), LambdaApi(60, **WELL, State="Disabled")) == [("event-source", "warning")]


@pytest.mark.parametrize(
    ("visibility", "window", "severity"),
    [(359, 0, "warning"), (360, 1, "warning"), (59, 0, "error")],
    ids=["under six times", "without the window", "under the timeout"],
)
def test_a_visibility_timeout_that_is_too_short_is_found(visibility, window, severity) -> None:
    api = LambdaApi(60, **WELL, MaximumBatchingWindowInSeconds=window)

    assert found(Broker(visibility), api) == [("visibility", severity)]


def test_a_queue_without_dead_letters_is_found() -> None:
    options = QueueOptions(dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)

    assert found(Broker(), LambdaApi(60, **WELL), queue=options) == [("dead-letters", "warning")]


def test_the_remedy_is_a_command() -> None:
    consumer = ExchangeMessageConsumer("stock", "orders", driver=Broker())

    (finding,) = diagnose("packing", consumer, lambda_client=LambdaApi(60, FunctionResponseTypes=[]))

    assert finding.remedy == (
        "aws lambda update-event-source-mapping --uuid 14e0db71 --function-response-types ReportBatchItemFailures"
    )


def test_a_driver_without_an_inspection_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="diagnose"):
        diagnose("packing", lambda_client=LambdaApi(60))


def test_few_receives_are_found() -> None:
    driver = Broker()
    queue = driver.declare_queue(
        "few", dead_letter_queue=driver.declare_queue("few-dlq"), max_receive_count=3
    )
    consumer = ExchangeMessageConsumer(
        "few", driver=driver, queue=QueueOptions(declare=False), retry=RetryPolicy(max_attempts=3)
    )

    checks = [one.check for one in diagnose("packing", consumer, lambda_client=LambdaApi(60, **WELL))]

    assert queue.max_receive_count == 3
    assert checks == ["dead-letters"]
