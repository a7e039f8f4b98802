"""Sending to a queue, one message or a batch; SNS delivers through it as well."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from melange.drivers.sqs_rules import MAX_DELAY_SECONDS
from melange.server.calls import Call, Parameters
from melange.server.errors import ServiceError, invalid_value, missing_parameter, sqs_error
from melange.server.sqs.batches import check_entries, for_each
from melange.server.sqs.messages import (
    NO_ATTRIBUTES,
    SentMessage,
    attributes_md5,
    attributes_size,
    check_attributes,
    check_body,
    check_identifier,
    check_system_attributes,
    text_size,
)
from melange.server.sqs.queues import Queue, find_queue

if TYPE_CHECKING:
    from melange.server.broker import Broker
    from melange.server.calls import Caller

_MAX_BATCH_BYTES = 1_048_576


def send_message(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call, "SendMessage")
        return _send(call, queue, call.parameters)


def send_message_batch(call: Call) -> Parameters:
    entries = call.parameters.get("Entries", [])
    with call.broker.lock:
        queue = find_queue(call, "SendMessage")
        check_entries(entries, "SendMessageBatchRequestEntry")
        size = sum(map(_size, entries))
        if size > _MAX_BATCH_BYTES:
            raise sqs_error(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {_MAX_BATCH_BYTES} bytes. You have sent {size} bytes.",
            )
        if queue.is_fifo:
            for entry in entries:
                _check_batch_entry(queue, entry)
        return for_each(entries, lambda entry: _send(call, queue, entry))


def put(
    queue: Queue,
    message: SentMessage,
    *,
    group_id: str | None = None,
    deduplication_id: str | None = None,
    delay_seconds: int = 0,
    published_id: str = "",
    caller: Caller | None = None,
) -> tuple[str, int]:
    """Store a message and return its id and its sequence number; those of the first one if it is a duplicate.

    ``published_id`` is the id that it has in its topic, if SNS sends it. The memory is not checked, so that a message
    that moves is never lost.
    """
    broker = queue.broker
    memory = message.memory
    now = broker.now()
    copy = queue.stored.put(
        message, now, group_id=group_id, deduplication_id=deduplication_id, delay_seconds=delay_seconds
    )
    if copy is None:
        first = queue.stored.number_of_first(group_id, deduplication_id, now)
        assert first is not None
        broker.event_log.add("dropped as duplicate", now, queue.arn, first, caller, (published_id,))
        return broker.message_id(first), first
    broker.bytes_kept += memory
    details = (message, copy.visible_at, published_id)
    broker.event_log.add_content(memory, "sent", now, queue.arn, copy.origin, caller, details)
    return broker.message_id(copy.origin), copy.number


def check_memory(broker: Broker, size: int) -> None:
    """Raise SQS's error if messages would take more memory than the server may use for them."""
    if broker.max_bytes is not None and broker.bytes_kept + size > broker.max_bytes:
        raise ServiceError(
            "OverLimit",
            f"melange server keeps messages in at most {broker.max_bytes // 1_048_576:,} MiB of memory, and that is "
            "full: receive and delete messages, purge a queue, or start it with a larger --max-memory",
            403,
        )


def sequence_number(number: int) -> str:
    """Return the number of a FIFO message as SQS writes it."""
    return f"{18_000_000_000_000_000_000 + number * 256}"


def _send(call: Call, queue: Queue, entry: Parameters) -> Parameters:
    body = check_body(entry.get("MessageBody"))
    attributes = entry.get("MessageAttributes")
    system_attributes = entry.get("MessageSystemAttributes")
    message = SentMessage(
        body,
        check_attributes(attributes) if attributes else NO_ATTRIBUTES,
        sender_id=call.caller.user_id,
        trace_header=check_system_attributes(system_attributes) if system_attributes else None,
    )
    if message.size > queue.max_message_bytes:
        raise ServiceError(
            "InvalidParameterValue",
            f"One or more parameters are invalid. Reason: Message must be shorter than {queue.max_message_bytes} bytes.",
        )
    check_memory(call.broker, message.memory)
    group_id, deduplication_id = _ids(queue, entry)
    message_id, number = put(
        queue,
        message,
        group_id=group_id,
        deduplication_id=deduplication_id,
        delay_seconds=_delay_seconds(queue, entry.get("DelaySeconds")),
        caller=call.caller,
    )
    result = {"MessageId": message_id, "MD5OfMessageBody": message.body_md5}
    if message.attributes_md5:
        result["MD5OfMessageAttributes"] = message.attributes_md5
    if system_attributes:
        result["MD5OfMessageSystemAttributes"] = attributes_md5(system_attributes)
    if queue.is_fifo:
        result["SequenceNumber"] = sequence_number(number)
    return result


def _ids(queue: Queue, entry: Parameters) -> tuple[str | None, str | None]:
    """Return the group and the deduplication id, or raise what SQS answers to them."""
    group_id, deduplication_id = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
    if group_id is deduplication_id is None and not queue.is_fifo:
        return None, None
    if group_id is not None:
        check_identifier("MessageGroupId", group_id)
    if not queue.is_fifo:
        if deduplication_id is not None:
            raise invalid_value(
                deduplication_id,
                "MessageDeduplicationId",
                "The request include parameter that is not valid for this queue type.",
            )
        return group_id, None
    if group_id is None:
        raise missing_parameter("MessageGroupId")
    if deduplication_id is not None:
        check_identifier("MessageDeduplicationId", deduplication_id)
        return group_id, deduplication_id
    if not queue.hashes_content:
        raise ServiceError(
            "InvalidParameterValue",
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
            "explicitly",
        )
    return group_id, hashlib.sha256(entry["MessageBody"].encode()).hexdigest()


def _check_batch_entry(queue: Queue, entry: Parameters) -> None:
    # SQS refuses the whole batch for these, and names the missing group otherwise than for one message.
    if "MessageGroupId" not in entry:
        raise ServiceError("InvalidParameterValue", "The request must contain the parameter MessageGroupId.")
    _ids(queue, entry | {"MessageBody": ""})


def _delay_seconds(queue: Queue, seconds: int | None) -> int:
    if seconds is None or (queue.is_fifo and seconds == 0):
        return queue.delay_seconds
    if queue.is_fifo:
        raise invalid_value(
            seconds, "DelaySeconds", "The request include parameter that is not valid for this queue type."
        )
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise invalid_value(seconds, "DelaySeconds", f"DelaySeconds must be >= 0 and <= {MAX_DELAY_SECONDS}.")
    return seconds


def _size(entry: Parameters) -> int:
    size, attributes = text_size(entry.get("MessageBody", "")), entry.get("MessageAttributes")
    if not attributes:
        return size
    return size + attributes_size(
        {
            name: attribute
            for name, attribute in attributes.items()
            if "DataType" in attribute and not attribute.keys().isdisjoint(("StringValue", "BinaryValue"))
        }
    )
