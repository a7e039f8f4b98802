"""Publishing to a topic, one message or a batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from melange.drivers.sqs_rules import MAX_BATCH, MAX_NAME_CHARACTERS
from melange.messages import new_uuid
from melange.server.calls import Call, Parameters
from melange.server.errors import ServiceError, invalid_parameter
from melange.server.sns.delivering import deliver
from melange.server.sns.notifications import Notification, timestamp_of
from melange.server.sns.topics import Topic, find_topic
from melange.server.sqs.messages import (
    DATA_TYPE,
    Attributes,
    attributes_size,
    check_identifier,
    find_forbidden,
    is_number_text,
)
from melange.server.sqs.sending import check_memory

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]+")
_MAX_ENTRY_ID = 80
_MAX_SUBJECT = 100
_ODD_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
_IDS = ("MessageGroupId", "MessageDeduplicationId")


def publish(call: Call) -> Parameters:
    parameters = call.parameters
    if "PhoneNumber" in parameters:
        raise ServiceError(
            "InvalidParameter", "Invalid parameter: PhoneNumber Reason: melange server sends no text messages"
        )
    parameter = "TopicArn" if "TopicArn" in parameters else "TargetArn"
    if parameter not in parameters:
        raise invalid_parameter("TopicArn or TargetArn Reason: no value for required parameter")
    attributes = _check_attributes(parameters.get("MessageAttributes", {}), "messageAttributes")
    with call.broker.lock:
        topic = find_topic(call, "Publish", parameter)
        bodies = _check(topic, parameters)
        _check_size(topic, parameters, attributes)
        return _publish(call, topic, parameters, bodies, attributes)


def publish_batch(call: Call) -> Parameters:
    entries: list[Parameters] = call.parameters.get("PublishBatchRequestEntries", [])
    with call.broker.lock:
        topic = find_topic(call, "Publish")
        _check_entries(entries)
        checked = [
            _check_attributes(
                entry.get("MessageAttributes", {}),
                f"publishBatchRequestEntries.{number}.member.messageAttributes",
            )
            for number, entry in enumerate(entries, 1)
        ]
        bodies = [_check(topic, entry) for entry in entries]
        if sum(map(_size, entries, checked)) > topic.max_message_bytes:
            raise ServiceError(
                "BatchRequestTooLong", "The length of all the messages put together is more than the limit."
            )
        successful = [
            {"Id": entry["Id"]} | _publish(call, topic, entry, body, attributes)
            for entry, body, attributes in zip(entries, bodies, checked, strict=True)
        ]
    return {"Successful": successful, "Failed": []}


def _check_entries(entries: list[Parameters]) -> None:
    if not entries:
        raise ServiceError("EmptyBatchRequest", "The batch request doesn't contain any entries.")
    if len(entries) > MAX_BATCH:
        raise ServiceError(
            "TooManyEntriesInBatchRequest", "The batch request contains more entries than permissible."
        )
    for entry in entries:
        entry_id = entry.get("Id", "")
        if len(entry_id) > _MAX_ENTRY_ID:
            raise ServiceError(
                "InvalidBatchEntryId", f"The Id of a batch entry in the batch request is too long: {entry_id}"
            )
        if not _ENTRY_ID.fullmatch(entry_id):
            raise ServiceError(
                "InvalidBatchEntryId",
                f"The Id of a batch entry in the batch request contains an impermissible character: {entry_id}",
            )
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise ServiceError(
            "BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id."
        )


def _check(topic: Topic, entry: Parameters) -> Mapping[str, str]:
    """Return the texts by protocol, or raise what SNS answers to the message."""
    message = entry.get("Message", "")
    if not message:
        raise invalid_parameter("Empty message")
    subject = entry.get("Subject")
    if subject is not None and not (0 < len(subject) <= _MAX_SUBJECT and subject.isprintable()):
        raise invalid_parameter("Subject")
    structure = entry.get("MessageStructure")
    if structure not in {None, "json"}:
        raise invalid_parameter("MessageStructure")
    bodies = _parse_structure(message) if structure else {"default": message}
    _check_ids(topic, entry)
    return bodies


def _check_ids(topic: Topic, entry: Parameters) -> None:
    if topic.is_fifo:
        if "MessageGroupId" not in entry:
            raise invalid_parameter("The MessageGroupId parameter is required for FIFO topics")
        if "MessageDeduplicationId" not in entry and not topic.hashes_content:
            raise invalid_parameter(
                "The topic should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
                "explicitly"
            )
    elif "MessageDeduplicationId" in entry:
        raise invalid_parameter(
            "MessageDeduplicationId Reason: The request includes MessageDeduplicationId parameter that is not valid "
            "for this topic type"
        )
    for name in _IDS:
        if name in entry:
            try:
                check_identifier(name, entry[name])
            except ServiceError:
                raise invalid_parameter(
                    f"{name} Reason: {name} can only include alphanumeric and punctuation "
                    "characters. 1 to 128 in length."
                ) from None


def _parse_structure(message: str) -> Mapping[str, str]:
    try:
        document = json.loads(message)
        json.dumps(document, ensure_ascii=False).encode()  # which halves of surrogate pairs prevent
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise invalid_parameter("Message Structure - JSON message body failed to parse")
    texts = {protocol: text for protocol, text in document.items() if isinstance(text, str)}
    if "default" not in texts:
        raise invalid_parameter("Message Structure - No default entry in JSON message body")
    return texts


def _check_attributes(attributes: Mapping[str, Mapping[str, Any]], path: str) -> Attributes:
    """Return message attributes without what is empty, or raise what SNS answers to them."""
    return {
        name: _check_attribute(name, attribute, f"{path}.{name}") for name, attribute in attributes.items()
    }


def _check_attribute(name: str, attribute: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    data_type = attribute.get("DataType")
    if data_type is None:
        raise ServiceError(
            "ValidationError",
            f"1 validation error detected: Value null at '{path}.member.dataType' failed to satisfy constraint: Member "
            "must not be null",
        )
    _check_attribute_name(name)
    found = DATA_TYPE.fullmatch(data_type)
    if found is None:
        raise _invalid_attribute(
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type prefixes "
            "is Binary, Number, and String."
        )
    field, kind = ("BinaryValue", "Binary") if found[1] == "Binary" else ("StringValue", "String")
    other = "StringValue" if kind == "Binary" else "BinaryValue"
    value = attribute.get(field)
    if not value:
        if attribute.get(other):
            raise _invalid_attribute(
                f"The message attribute '{name}' with type '{found[1]}' must use field '{kind}'."
            )
        raise _invalid_attribute(
            f"The message attribute '{name}' must contain non-empty message attribute value for message attribute type "
            f"'{found[1]}'."
        )
    if kind == "String" and find_forbidden(value):
        raise _invalid_attribute(
            f"Invalid binary character '{find_forbidden(value)}' was found in the message attribute."
        )
    if found[1] == "Number" and not is_number_text(value):
        raise _invalid_attribute(f"Could not cast message attribute '{name}' value to number.")
    return {"DataType": data_type, field: value}


def _check_attribute_name(name: str) -> None:
    odd = _ODD_CHARACTER.search(name)
    if len(name) > MAX_NAME_CHARACTERS:
        raise _invalid_attribute("Length of message attribute name must be less than 256 bytes.")
    if odd:
        raise _invalid_attribute(
            f"Invalid non-alphanumeric character '#x{ord(odd[0]):X}' was found in the message attribute name. Can only "
            "include alphanumeric characters, hyphens, underscores, or dots."
        )
    if not name or name.startswith("."):
        raise _invalid_attribute("Invalid message attribute name starting with character '.' was found.")
    if name.endswith("."):
        raise _invalid_attribute("Invalid message attribute name ending with character '.' was found.")
    if ".." in name:
        raise _invalid_attribute("Message attribute name can not have successive '.' character.")


def _invalid_attribute(message: str) -> ServiceError:
    return ServiceError("ParameterValueInvalid", message)


def _check_size(topic: Topic, entry: Parameters, attributes: Mapping[str, Any]) -> None:
    if _size(entry, attributes) > topic.max_message_bytes:
        raise invalid_parameter("Message too long")


def _size(entry: Parameters, attributes: Mapping[str, Any]) -> int:
    return len(entry.get("Message", "").encode()) + attributes_size(attributes)


def _publish(
    call: Call, topic: Topic, entry: Parameters, bodies: Mapping[str, str], attributes: Mapping[str, Any]
) -> Parameters:
    broker = call.broker
    group_id, deduplication_id = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
    key: object = None
    if topic.is_fifo:
        deduplication_id = deduplication_id or hashlib.sha256(entry["Message"].encode()).hexdigest()
        by_group = topic.attributes.get("FifoThroughputScope") == "MessageGroup"
        key = (group_id, deduplication_id) if by_group else deduplication_id
        first = topic.window.find(key, broker.now())
        if first is not None:
            broker.event_log.add("dropped as duplicate", broker.now(), topic.arn, first[0], call.caller)
            return {"MessageId": first[0], "SequenceNumber": first[1]}
    size = _size(entry, attributes)
    check_memory(broker, size * len(topic.subscriptions))
    notification = Notification(
        topic,
        new_uuid(),
        bodies,
        attributes,
        call.base_url,
        timestamp_of(broker.clock.now()),
        subject=entry.get("Subject"),
        group_id=group_id,
        deduplication_id=deduplication_id,
        sequence_number=topic.next_sequence_number() if topic.is_fifo else None,
    )
    broker.event_log.add_content(
        size, "published", broker.now(), topic.arn, notification.message_id, call.caller, (notification,)
    )
    deliver(call, notification)
    answer = {"MessageId": notification.message_id}
    if notification.sequence_number:
        topic.window.remember(key, broker.now(), (notification.message_id, notification.sequence_number))
        answer["SequenceNumber"] = notification.sequence_number
    return answer
