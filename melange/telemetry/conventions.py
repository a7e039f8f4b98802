"""Names of attributes by the semantic conventions for messaging, and their values.

Source: https://github.com/open-telemetry/semantic-conventions/tree/v1.45.0/docs/messaging. They are in development, so their
names stand here: in the package of the conventions they still move.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Leave, Outcome
from melange.errors import Retry
from melange.messages import Queue, Topic

INSTRUMENTATION_NAME: Final = "melange"
"""The name under which spans and metrics are made."""

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
TOPIC_ARN: Final = "aws.sns.topic.arn"
QUEUE_URL: Final = "aws.sqs.queue.url"
ERROR_TYPE: Final = "error.type"

EVENT_TYPE: Final = "melange.event.type"
LISTENER_NAME: Final = "melange.listener.name"
OUTCOME: Final = "melange.outcome"
ATTEMPT: Final = "melange.attempt"
RECEIVE_COUNT: Final = "melange.receive_count"
OUTBOX_STATE: Final = "melange.outbox.state"

MEMORY_SYSTEM: Final = "melange.memory"
"""The value of ``messaging.system`` for the in-memory driver."""

OUTBOX_SYSTEM: Final = "melange.outbox"
"""The value of ``messaging.system`` when an outbox writes a message: only its relay knows the broker."""

Operation = Literal["create", "send", "receive", "process", "settle"]
"""Both name and type of an operation."""

Attributes = dict[str, str | int | float | bool]


def _system_of(destination: Topic | Queue) -> str:
    """Return the messaging system of a topic or queue, from its address."""
    address = destination.address
    if address.startswith(("arn:aws:sns:memory:", "arn:aws:sqs:memory:")):
        return MEMORY_SYSTEM
    if address.startswith("arn:"):
        return "aws.sns" if isinstance(destination, Topic) else "aws_sqs"
    scheme = address.partition(":")[0]
    return "aws_sqs" if scheme in {"http", "https"} else f"melange.{scheme}"


def operation_attributes_of(operation: Operation, destination: Topic | Queue) -> Attributes:
    """Return the attributes that every span and metric of an operation on a topic or queue has."""
    return {
        OPERATION_NAME: operation,
        OPERATION_TYPE: operation,
        SYSTEM: _system_of(destination),
        DESTINATION_NAME: destination.name,
    }


def address_attributes_of(destination: Topic | Queue) -> Attributes:
    """Return the attributes that only spans have: where the topic or queue is."""
    system, address = _system_of(destination), destination.address
    if system == "aws.sns":
        return {TOPIC_ARN: address}
    if system == "aws_sqs":
        host = urlsplit(address).hostname
        return {QUEUE_URL: address, SERVER_ADDRESS: host} if host else {}
    return {}


def error_type(error: BaseException) -> str:
    """Return the name of an exception's class, with its module unless that is Python itself."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def outcome_name(outcome: Outcome) -> str:
    """Return ``melange.outcome``: ``done``, ``duplicate``, ``unhandled``, ``retry``, ``dead_letter``, ``lease_lost``."""
    if isinstance(outcome, Acknowledge):
        return outcome.reason
    if isinstance(outcome, Defer):
        return "retry"
    return "dead_letter" if isinstance(outcome, DeadLetter) else "lease_lost"


def error_of(outcome: Outcome) -> BaseException | None:
    """Return the exception that led to the outcome; None if a listener asked for a retry itself."""
    if isinstance(outcome, (Acknowledge, Leave)) or isinstance(outcome.error, Retry):
        return None
    return outcome.error
