"""Messages as parameters of SNS and SQS, and back, trace contexts included; without calls."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from melange.drivers.aws.operations import Answer, Entry, UnreadableAnswer
from melange.drivers.sqs_rules import (
    ATTRIBUTE_NAME,
    ATTRIBUTE_TYPE,
    IDENTIFIER,
    MESSAGE_ID_ATTRIBUTE,
    NUMBER_ATTRIBUTE,
    attributes_of,
    can_travel,
    message_from_attributes,
)
from melange.messages import Delivery, Message, Queue

_NOT_A_MESSAGE = "it holds something other than messages"
_ENVELOPE_SIGN = '"TopicArn"'
_new = tuple.__new__
_from_timestamp = datetime.fromtimestamp

TRACE_ATTRIBUTE = "AWSTraceHeader"
"""The system attribute of SQS with the trace context, by which X-Ray joins the traces of queues, functions and services.

It does not count towards the size of a message.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
"""

TRACEPARENT_HEADER = "traceparent"
_XRAY_HEADER = "X-Amzn-Trace-Id"
"""What OpenTelemetry's propagator for X-Ray writes: the same text as the system attribute."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{8})([0-9a-f]{24})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_ROOT = re.compile(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?=;|\s|$)")
_PARENT = re.compile(r"(?:^|;)\s*Parent=([0-9a-f]{16})(?=;|\s|$)")
_SAMPLED = re.compile(r"(?:^|;)\s*Sampled=1(?=;|\s|$)")


class Received(NamedTuple):
    """The value of ``Delivery.received``: the message as SQS gave it, and the time of the request."""

    raw: Mapping[str, Any]
    asked_at: float


def entry_of(body_field: str, message: Message, delay_seconds: int = 0) -> Entry:
    """Return the message as an entry of a batch, without its ``Id``."""
    entry: Entry = {
        body_field: message.body,
        "MessageAttributes": {
            name: {"DataType": ATTRIBUTE_TYPE if name != NUMBER_ATTRIBUTE else "Number", "StringValue": value}
            for name, value in attributes_of(message).items()
        },
    }
    if message.message_group_id is not None:
        entry["MessageGroupId"] = message.message_group_id
    if message.message_deduplication_id is not None:
        entry["MessageDeduplicationId"] = message.message_deduplication_id
    if delay_seconds:
        entry["DelaySeconds"] = delay_seconds
    return entry


publish_entry = partial(entry_of, "Message")
"""Makes an entry of SNS ``PublishBatch``."""


def send_entry(message: Message, delay_seconds: int = 0) -> Entry:
    """Return the message as an entry of SQS ``SendMessageBatch``, without its ``Id``."""
    entry = entry_of("MessageBody", message, delay_seconds)
    trace_header = trace_header_of(message)
    if trace_header is not None:
        entry["MessageSystemAttributes"] = {
            TRACE_ATTRIBUTE: {"DataType": ATTRIBUTE_TYPE, "StringValue": trace_header}
        }
    return entry


def deliveries_from(
    answer: Answer, queue: Queue, asked_at: float, visibility_timeout_seconds: int
) -> list[Delivery]:
    """Return the messages in an answer of SQS ``ReceiveMessage`` as deliveries.

    Raises:
        UnreadableAnswer: it holds something else.
    """
    messages = answer.get("Messages") or []
    if not isinstance(messages, list):
        raise UnreadableAnswer("its messages are not a list")
    return [delivery_from(raw, queue, asked_at, visibility_timeout_seconds) for raw in messages]


def delivery_from(
    raw: Mapping[str, Any], queue: Queue, asked_at: float, visibility_timeout_seconds: int
) -> Delivery:
    """Return a message of SQS ``ReceiveMessage`` as a delivery.

    An SNS envelope is removed if there is one; anything else in the body is data.

    Raises:
        UnreadableAnswer: it is not a message.
    """
    try:
        body, receipt_handle, broker_message_id = raw["Body"], raw["ReceiptHandle"], raw["MessageId"]
        system = raw.get("Attributes") or {}
        receive_count = int(system.get("ApproximateReceiveCount", 1))
        found = raw.get("MessageAttributes") or {}
        attributes = {
            name: text if type(text := value.get("StringValue")) is str and text else _as_text(value)
            for name, value in found.items()
        }
    except (AttributeError, LookupError, TypeError, ValueError):
        raise UnreadableAnswer(_NOT_A_MESSAGE) from None
    if not (type(body) is type(receipt_handle) is type(broker_message_id) is str):
        raise UnreadableAnswer(_NOT_A_MESSAGE)
    message_id = broker_message_id
    sent_at = system.get("SentTimestamp")
    # A message of melange has its id beside the body: only others can be an envelope.
    if MESSAGE_ID_ATTRIBUTE not in attributes and _ENVELOPE_SIGN in body:
        envelope = _envelope(body)
        if envelope:
            body = envelope["Message"]
            attributes |= _envelope_attributes(envelope)
            if _is_identifier(envelope.get("MessageId")):
                message_id = envelope["MessageId"]
    if TRACE_ATTRIBUTE in system and TRACEPARENT_HEADER not in attributes:
        traceparent = traceparent_of(system[TRACE_ATTRIBUTE])
        if traceparent is not None:
            attributes[TRACEPARENT_HEADER] = traceparent
    message = message_from_attributes(
        body,
        attributes,
        fallback_message_id=message_id,
        sent_at=None if sent_at is None else _moment(sent_at),
        message_group_id=system.get("MessageGroupId"),
        message_deduplication_id=system.get("MessageDeduplicationId"),
    )
    return _new(  # in half of the time of the class's own function
        Delivery,
        (
            message,
            queue,
            receipt_handle,
            receive_count,
            asked_at + visibility_timeout_seconds,
            broker_message_id,
            _new(Received, (raw, asked_at)),
        ),
    )


def _moment(milliseconds: object) -> datetime | None:
    try:
        return _from_timestamp(int(milliseconds) / 1000, UTC) if isinstance(milliseconds, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _as_text(attribute: Mapping[str, Any]) -> str:
    value = attribute.get("BinaryValue")
    return b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value or "")


def _envelope(body: str) -> Mapping[str, Any] | None:
    """Return the SNS envelope in ``body``, or None.

    A body may only look like an envelope. It counts if its message is one that SNS could have carried, so that the
    message can be sent again, for example to a dead-letter queue.
    """
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if (
        isinstance(envelope, dict)
        and envelope.get("Type") == "Notification"
        and isinstance(envelope.get("TopicArn"), str)
        and can_travel(envelope.get("Message"))
    ):
        return envelope
    return None


def _envelope_attributes(envelope: Mapping[str, Any]) -> dict[str, str]:
    attributes = envelope.get("MessageAttributes")
    if not isinstance(attributes, dict):
        return {}
    # In an envelope, numbers and base64 are text already.
    return {
        name: attribute["Value"]
        for name, attribute in attributes.items()
        if ATTRIBUTE_NAME.fullmatch(name)
        and isinstance(attribute, dict)
        and can_travel(attribute.get("Value"))
    }


def _is_identifier(value: object) -> bool:
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None


def trace_header_of(message: Message) -> str | None:
    """Return the value of ``AWSTraceHeader`` for a message with a trace context; None if it has none."""
    headers = message.headers
    if not headers:
        return None
    known = headers.get(_XRAY_HEADER)
    if known:
        return known
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT_HEADER, ""))
    if found is None:
        return None
    time, rest, parent, flags = found.groups()
    return f"Root=1-{time}-{rest};Parent={parent};Sampled={int(flags, 16) & 1}"


def traceparent_of(trace_header: str) -> str | None:
    """Return the ``traceparent`` with the same meaning; None if the attribute names no span."""
    root, parent = _ROOT.search(trace_header), _PARENT.search(trace_header)
    if root is None or parent is None:
        return None
    return f"00-{root[1]}{root[2]}-{parent[1]}-{'01' if _SAMPLED.search(trace_header) else '00'}"
