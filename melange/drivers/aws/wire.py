"""How messages look on SNS and SQS, and back: dictionaries in, dictionaries out, no calls."""

# MERGED DOCS: Amazon resource names, as far as topics and queues need them.

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from melange.drivers.sqs_rules import (
    ATTRIBUTE_NAME,
    ATTRIBUTE_TYPE,
    IDENTIFIER,
    MESSAGE_ID_ATTRIBUTE,
    attributes_of,
    can_travel,
    message_from_attributes,
)
from melange.errors import ConfigurationError
from melange.messages import Delivery, Message, Queue


@dataclass(frozen=True, slots=True)
class Arn:
    """``arn:partition:service:region:account:name`` of a topic or a queue."""

    partition: str
    service: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.name}"


def is_arn(name: object) -> bool:
    """Tell whether ``name`` is meant as an ARN: no plain name has a colon."""
    return isinstance(name, str) and name.startswith("arn:")


def parse_arn(text: str, service: str) -> Arn:
    """Return the parts of the ARN of a topic (``service="sns"``) or a queue (``"sqs"``).

    Raises:
        ConfigurationError: it is not such an ARN.
    """
    parts = text.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != service or not all(parts):
        raise ConfigurationError(
            f"{text!r} is no ARN of a {'topic' if service == 'sns' else 'queue'}; one looks like "
            f"arn:aws:{service}:eu-west-1:123456789012:name"
        )
    return Arn(*parts[1:])


Entry = dict[str, Any]

_ENVELOPE_SIGN = '"TopicArn"'


def publish_entry(message: Message) -> Entry:
    """Return the message as an entry of SNS ``PublishBatch``, without its ``Id``."""
    return {"Message": message.body, **_common_fields(message)}


def send_entry(message: Message, delay_seconds: int) -> Entry:
    """Return the message as an entry of SQS ``SendMessageBatch``, without its ``Id``."""
    entry = {"MessageBody": message.body, **_common_fields(message)}
    if delay_seconds:
        entry["DelaySeconds"] = delay_seconds
    return entry


def delivery_from(raw: Mapping[str, Any], queue: Queue, deadline: float) -> Delivery:
    """Return what SQS ``ReceiveMessage`` gave as a delivery.

    An SNS envelope is taken off where there is one; whatever else the body holds is data.
    """
    system = raw.get("Attributes") or {}
    body = raw["Body"]
    found = raw.get("MessageAttributes") or {}
    attributes = {name: _attribute_text(value) for name, value in found.items()}
    fallback_message_id = raw["MessageId"]
    # What melange published arrives with its id beside the body: only the rest can be an envelope.
    if MESSAGE_ID_ATTRIBUTE not in attributes and _ENVELOPE_SIGN in body:
        envelope = _envelope(body)
        if envelope:
            body = envelope["Message"]
            attributes |= _envelope_attributes(envelope)
            if _is_identifier(envelope.get("MessageId")):
                fallback_message_id = envelope["MessageId"]
    message = message_from_attributes(
        body,
        attributes,
        fallback_message_id=fallback_message_id,
        message_group_id=system.get("MessageGroupId"),
        message_deduplication_id=system.get("MessageDeduplicationId"),
    )
    return Delivery(
        message=message,
        queue=queue,
        receipt_handle=raw["ReceiptHandle"],
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        deadline=deadline,
    )


def _common_fields(message: Message) -> Entry:
    fields: Entry = {
        "MessageAttributes": {
            name: {"DataType": ATTRIBUTE_TYPE, "StringValue": value}
            for name, value in attributes_of(message).items()
        }
    }
    if message.message_group_id is not None:
        fields["MessageGroupId"] = message.message_group_id
    if message.message_deduplication_id is not None:
        fields["MessageDeduplicationId"] = message.message_deduplication_id
    return fields


def _attribute_text(value: Mapping[str, Any]) -> str:
    text = value.get("StringValue")
    if text is not None:
        return str(text)
    return b64encode(value.get("BinaryValue", b"")).decode("ascii")


def _envelope(body: str) -> Mapping[str, Any] | None:
    """Return the envelope that ``body`` is, if it is one.

    Anyone may send what looks like one: it counts only with a message that SNS could have carried, so that
    what is in it can be sent on, to a dead-letter queue for instance.
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
    # Numbers and base64 come as text in an envelope already.
    return {
        name: attribute["Value"]
        for name, attribute in attributes.items()
        if ATTRIBUTE_NAME.fullmatch(name)
        and isinstance(attribute, dict)
        and can_travel(attribute.get("Value"))
    }


def _is_identifier(value: object) -> bool:
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None
