"""Checks of a function and its event source mappings: what would lose or repeat messages silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.drivers.inspection import ObservedQueue
from melange.errors import ConfigurationError
from melange.topology.checks import LAMBDA_VISIBILITY_FACTOR, Finding
from melange.topology.observing import inspection_of

FEWEST_RECEIVES = 5
"""Throttled invocations count as receives: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""


def diagnose(function_name: str, *consumers: ExchangeMessageConsumer, lambda_client: Any) -> list[Finding]:
    """Return the faults of a function that runs ``handler(*consumers)``, errors first. Nothing is changed.

    It needs ``lambda:GetFunctionConfiguration``, ``lambda:ListEventSourceMappings`` and ``sqs:GetQueueAttributes``. Call
    it where you deploy, not in the function.

    Args:
        function_name: the name or ARN of the function.
        consumers: those of the handler.
        lambda_client: ``boto3.client("lambda")``; its exceptions pass.

    Raises:
        ConfigurationError: no consumer, or a driver that cannot be inspected.
        DriverError: SQS is unavailable, or a permission is missing.
    """
    if not consumers:
        raise ConfigurationError("diagnose() takes the consumers of the function's handler")
    configuration = lambda_client.get_function_configuration(FunctionName=function_name)
    timeout_seconds: int = configuration["Timeout"]
    pages = lambda_client.get_paginator("list_event_source_mappings").paginate(FunctionName=function_name)
    mappings = {
        mapping["EventSourceArn"]: mapping for page in pages for mapping in page["EventSourceMappings"]
    }
    findings: list[Finding] = []
    for consumer in consumers:
        queue = inspection_of(consumer.driver).queue(consumer.queue.address)
        if queue is not None:
            findings += _of_queue(function_name, queue, mappings.get(queue.arn), timeout_seconds)
    return sorted(findings, key=lambda finding: finding.severity)


def _of_queue(
    function_name: str, queue: ObservedQueue, mapping: Mapping[str, Any] | None, timeout_seconds: int
) -> Iterator[Finding]:
    where = f"queue {queue.name}"
    if mapping is None:
        yield Finding(
            "event-source",
            "error",
            where,
            f"function {function_name} has no event source mapping for it",
            "nothing invokes the function with its messages",
            f"aws lambda create-event-source-mapping --function-name {function_name} --event-source-arn {queue.arn} "
            "--function-response-types ReportBatchItemFailures",
        )
        return
    yield from _of_mapping(where, mapping)
    window: int = mapping.get("MaximumBatchingWindowInSeconds") or 0
    yield from _of_visibility(where, queue, timeout_seconds, window)
    yield from _of_dead_letters(where, queue)


def _of_mapping(where: str, mapping: Mapping[str, Any]) -> Iterator[Finding]:
    update = f"aws lambda update-event-source-mapping --uuid {mapping['UUID']}"
    if "ReportBatchItemFailures" not in (mapping.get("FunctionResponseTypes") or ()):
        yield Finding(
            "partial-batches",
            "error",
            where,
            "the event source mapping does not report failed records",
            "Lambda ignores the failures that the handler returns, and deletes those messages: they are lost",
            f"{update} --function-response-types ReportBatchItemFailures",
        )
    if mapping.get("State") in ("Disabled", "Disabling"):
        yield Finding(
            "event-source",
            "warning",
            where,
            "the event source mapping is disabled",
            "nothing invokes the function with its messages",
            f"{update} --enabled",
        )


def _of_visibility(where: str, queue: ObservedQueue, timeout_seconds: int, window: int) -> Iterator[Finding]:
    wanted = LAMBDA_VISIBILITY_FACTOR * timeout_seconds + window
    if queue.visibility_timeout_seconds < wanted:
        yield Finding(
            "visibility",
            "error" if queue.visibility_timeout_seconds < timeout_seconds else "warning",
            where,
            f"its visibility timeout is {queue.visibility_timeout_seconds} s, and the function may run for "
            f"{timeout_seconds} s",
            "messages become visible while the function works on them, or while Lambda retries a throttled invocation: AWS "
            "asks for six times the timeout, in addition to the batching window",
            f"aws sqs set-queue-attributes --queue-url {queue.address} --attributes VisibilityTimeout={wanted}",
        )


def _of_dead_letters(where: str, queue: ObservedQueue) -> Iterator[Finding]:
    if queue.max_receive_count is None:
        yield Finding(
            "dead-letters",
            "warning",
            where,
            "it has no dead-letter queue",
            "a message that makes the function end, or run out of time or memory, is retried until it expires",
            "declare the consumer without NO_DEAD_LETTER_QUEUE, or set a RedrivePolicy",
        )
    elif queue.max_receive_count < FEWEST_RECEIVES:
        yield Finding(
            "dead-letters",
            "warning",
            where,
            f"the broker dead-letters messages after {queue.max_receive_count} receives",
            "throttled invocations and records without time left count as receives, though no listener ran",
            f"declare the consumer with RetryPolicy(max_attempts={FEWEST_RECEIVES}) or more",
        )
