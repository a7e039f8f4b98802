"""Deleting received messages, and changing how long they stay invisible."""

from __future__ import annotations

from melange.drivers.sqs_rules import MAX_VISIBILITY_SECONDS
from melange.server.calls import Call, Parameters
from melange.server.errors import invalid_value, missing_parameter
from melange.server.sqs.batches import check_entries, for_each
from melange.server.sqs.queues import Queue, find_queue


def delete_message(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        _delete(call, queue, call.parameters, call.broker.now())
    return {}


def delete_message_batch(call: Call) -> Parameters:
    entries = call.parameters.get("Entries", [])
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        check_entries(entries, "DeleteMessageBatchRequestEntry")
        now = call.broker.now()
        return for_each(entries, lambda entry: _delete(call, queue, entry, now))


def change_message_visibility(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        _change_visibility(call, queue, call.parameters)
    return {}


def change_message_visibility_batch(call: Call) -> Parameters:
    entries = call.parameters.get("Entries", [])
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        check_entries(entries, "ChangeMessageVisibilityBatchRequestEntry")
        return for_each(entries, lambda entry: _change_visibility(call, queue, entry))


def _delete(call: Call, queue: Queue, entry: Parameters, now: float) -> None:
    broker = queue.broker
    copy = queue.find_copy(entry.get("ReceiptHandle", ""))
    if copy is None:
        return  # deleted before, which is not an error
    queue.stored.remove(copy, now)
    broker.bytes_kept -= copy.message.memory
    broker.journal.add("deleted", now, queue.arn, copy.origin, call.caller)


def _change_visibility(call: Call, queue: Queue, entry: Parameters) -> None:
    broker, handle, seconds = queue.broker, entry.get("ReceiptHandle", ""), entry.get("VisibilityTimeout")
    if seconds is None:
        raise missing_parameter("VisibilityTimeout")
    if not 0 <= seconds <= MAX_VISIBILITY_SECONDS:
        raise invalid_value(
            seconds, "VisibilityTimeout", f"Must be >= 0 and <= {MAX_VISIBILITY_SECONDS}, if provided."
        )
    copy = queue.find_copy(handle)
    if copy is None:
        raise invalid_value(
            handle,
            "ReceiptHandle",
            "Message does not exist or is not available for visibility timeout change.",
        )
    now = broker.now()
    if now + seconds > copy.received_at + MAX_VISIBILITY_SECONDS and copy.visible_at > now:
        raise invalid_value(
            seconds,
            "VisibilityTimeout",
            f"Total VisibilityTimeout for the message is beyond the limit [{MAX_VISIBILITY_SECONDS} seconds]",
        )
    queue.stored.show_at(copy, now + seconds, now)
    queue.note_changes([copy])
    broker.journal.add("visibility changed", now, queue.arn, copy.origin, call.caller, (now + seconds,))
