"""What a consumer does with a queue: receive messages, at once or waiting, delete them, and change their visibility."""

from __future__ import annotations

from melange.drivers.sqs_rules import MAX_BATCH, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS, MAX_WAIT_SECONDS
from melange.engine.queue import Copy
from melange.engine.waiting import take_when_there
from melange.server.calls import Call, Parameters
from melange.server.errors import invalid_value, missing_parameter, no_such_queue, sqs_error
from melange.server.sqs.batches import check_entries, for_each
from melange.server.sqs.messages import SentMessage, attributes_md5, check_identifier, select_attributes
from melange.server.sqs.queues import Queue, find_queue
from melange.server.sqs.sending import sequence_number


def receive_message(call: Call) -> Parameters:
    parameters, broker = call.parameters, call.broker
    limit = _check_range(
        parameters, "MaxNumberOfMessages", 1, MAX_BATCH, "Must be between 1 and 10, if provided."
    )
    wait_seconds = _check_range(
        parameters, "WaitTimeSeconds", 0, MAX_WAIT_SECONDS, "Must be >= 0 and <= 20, if provided."
    )
    visibility_seconds = _check_range(
        parameters,
        "VisibilityTimeout",
        0,
        MAX_VISIBILITY_SECONDS,
        f"Must be >= 0 and <= {MAX_VISIBILITY_SECONDS}, if provided.",
    )
    attempt_id = parameters.get("ReceiveRequestAttemptId")
    with broker.lock:
        queue = find_queue(call, "ReceiveMessage")
        if attempt_id is not None:
            check_identifier("ReceiveRequestAttemptId", attempt_id)
        if visibility_seconds is None:
            visibility_seconds = queue.visibility_timeout_seconds
        if wait_seconds is None:
            wait_seconds = queue.wait_seconds
        now = broker.now()
        copies = _repeat(queue, attempt_id, now, visibility_seconds) or queue.stored.take(
            limit or 1, now, visibility_seconds
        )
        if copies or not wait_seconds:
            if not copies and queue.stored.is_full and not queue.is_fifo:
                raise sqs_error("OverLimit", f"Too many messages in flight: {MAX_IN_FLIGHT}.", 403)
            return _deliver(call, queue, copies, attempt_id)
        ended_waits = queue.stored.ended_waits
    return _receive_later(
        call, queue, limit or 1, visibility_seconds, give_up_at=now + wait_seconds, ended_waits=ended_waits
    )


def delete_message(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call, "DeleteMessage")
        _delete(call, queue, call.parameters, call.broker.now())
    return {}


def delete_message_batch(call: Call) -> Parameters:
    entries = call.parameters.get("Entries", [])
    with call.broker.lock:
        queue = find_queue(call, "DeleteMessage")
        check_entries(entries, "DeleteMessageBatchRequestEntry")
        now = call.broker.now()
        return for_each(entries, lambda entry: _delete(call, queue, entry, now))


def change_message_visibility(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call, "ChangeMessageVisibility")
        _change_visibility(call, queue, call.parameters)
    return {}


def change_message_visibility_batch(call: Call) -> Parameters:
    entries = call.parameters.get("Entries", [])
    with call.broker.lock:
        queue = find_queue(call, "ChangeMessageVisibility")
        check_entries(entries, "ChangeMessageVisibilityBatchRequestEntry")
        return for_each(entries, lambda entry: _change_visibility(call, queue, entry))


def _receive_later(
    call: Call, queue: Queue, limit: int, visibility_seconds: int, *, give_up_at: float, ended_waits: int
) -> Parameters:
    broker = call.broker

    def take(now: float) -> Parameters:
        if broker.queues.get(queue.arn) is not queue:
            raise no_such_queue()
        copies = queue.stored.take(limit, now, visibility_seconds)
        return _deliver(call, queue, copies, call.parameters.get("ReceiveRequestAttemptId"))

    answer = take_when_there(
        queue.stored,
        take,
        lock=broker.lock,
        clock=broker.clock,
        give_up_at=give_up_at,
        ended_waits=ended_waits,
        is_given_up=lambda: not call.is_client_there(),
    )
    return answer or {}


def _check_range(parameters: Parameters, name: str, lowest: int, highest: int, reason: str) -> int | None:
    value: int | None = parameters.get(name)
    if value is not None and not lowest <= value <= highest:
        raise invalid_value(value, name, reason)
    return value


def _repeat(
    queue: Queue, attempt_id: str | None, now: float, visibility_seconds: int
) -> list[Copy[SentMessage]]:
    """Return what an earlier receive with this id was given, if nothing has happened to it since."""
    attempt = queue.attempts.get(attempt_id) if attempt_id and queue.is_fifo else None
    if attempt is None or attempt.until <= now:
        return []
    copies = []
    for number, receive_count in attempt.receives:
        copy = queue.stored.copies_by_number.get(number)
        if copy is None or copy.receive_count != receive_count or copy.visible_at <= now:
            return []
        copies.append(copy)
    for copy in copies:
        queue.stored.show_at(copy, now + visibility_seconds, now)
    return copies


def _deliver(call: Call, queue: Queue, copies: list[Copy[SentMessage]], attempt_id: str | None) -> Parameters:
    if not copies:
        return {}
    broker = call.broker
    queue.note_changes(copies)
    if attempt_id and queue.is_fifo:
        queue.remember_attempt(attempt_id, copies, broker.now())
    for copy in copies:
        details = (copy.receive_count, copy.visible_at)
        broker.event_log.add("received", copy.received_at, queue.arn, copy.origin, call.caller, details)
    names = call.parameters.get("MessageAttributeNames", [])
    system_names = {
        *call.parameters.get("AttributeNames", []),
        *call.parameters.get("MessageSystemAttributeNames", []),
    }
    return {"Messages": [_describe(queue, copy, names, system_names) for copy in copies]}


def _describe(queue: Queue, copy: Copy[SentMessage], names: list[str], system_names: set[str]) -> Parameters:
    message = copy.message
    described: Parameters = {
        "MessageId": queue.broker.message_id(copy.origin),
        "ReceiptHandle": queue.handle_of(copy),
        "MD5OfBody": message.body_md5,
        "Body": message.body,
    }
    if system_names:
        described["Attributes"] = system_attributes(queue, copy, system_names)
    if names and message.attributes:
        selected = select_attributes(message.attributes, names)
        if selected:
            is_all = selected is message.attributes
            described["MD5OfMessageAttributes"] = (
                message.attributes_md5 if is_all else attributes_md5(selected)
            )
            described["MessageAttributes"] = selected
    return described


def system_attributes(queue: Queue, copy: Copy[SentMessage], names: set[str]) -> dict[str, str]:
    """Return the system attributes of these names, or all of them."""
    message = copy.message
    found = {
        "SenderId": message.sender_id,
        "SentTimestamp": str(int(copy.sent_at * 1_000)),
        "ApproximateReceiveCount": str(copy.receive_count),
        "ApproximateFirstReceiveTimestamp": str(int(copy.first_received_at * 1_000)),
    }
    if message.trace_header:
        found["AWSTraceHeader"] = message.trace_header
    if copy.group_id is not None:
        found["MessageGroupId"] = copy.group_id
    if queue.is_fifo and copy.deduplication_id is not None:
        found["MessageDeduplicationId"] = copy.deduplication_id
        found["SequenceNumber"] = sequence_number(copy.number)
    if copy.source is not None:
        source = next((one.arn for one in queue.broker.queues.values() if one.stored is copy.source), None)
        if source:
            found["DeadLetterQueueSourceArn"] = source
    return found if "All" in names else {name: value for name, value in found.items() if name in names}


def _delete(call: Call, queue: Queue, entry: Parameters, now: float) -> None:
    broker = queue.broker
    copy = queue.find_copy(entry.get("ReceiptHandle", ""))
    if copy is None:
        return  # deleted before, which is not an error
    queue.stored.remove(copy, now)
    broker.bytes_kept -= copy.message.memory
    broker.event_log.add("deleted", now, queue.arn, copy.origin, call.caller)


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
    broker.event_log.add("visibility changed", now, queue.arn, copy.origin, call.caller, (now + seconds,))
