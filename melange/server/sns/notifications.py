"""The JSON documents that SNS sends: notifications, and requests to confirm a subscription."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from melange.messages import new_uuid
from melange.server.calls import Call
from melange.server.sns.topics import Subscription, Topic


@dataclass(slots=True)
class Notification:
    """A message that was published, as its subscriptions get it. Guarded by the broker's lock."""

    topic: Topic
    message_id: str
    bodies: Mapping[str, str]
    """The text by protocol, and under ``default`` for all others."""
    attributes: Mapping[str, Mapping[str, Any]]
    base_url: str
    timestamp: str
    subject: str | None = None
    group_id: str | None = None
    deduplication_id: str | None = None
    sequence_number: str | None = None
    signatures: dict[str, str] = field(default_factory=dict)
    """By the text that was signed."""

    def body_for(self, protocol: str) -> str:
        """Return the text for endpoints of a protocol."""
        return self.bodies.get(protocol, self.bodies["default"])


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """A message to an HTTP endpoint."""

    kind: str
    message_id: str
    body: str
    is_raw: bool = False
    notification: Notification | None = None


def timestamp_of(moment: datetime) -> str:
    """Return a time as SNS writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def envelope(call: Call, notification: Notification, subscription: Subscription) -> str:
    """Return the JSON text for a subscription without raw delivery."""
    topic = notification.topic
    document: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": notification.message_id,
    }
    if notification.sequence_number:
        document["SequenceNumber"] = notification.sequence_number
    document["TopicArn"] = topic.arn
    if notification.subject is not None:
        document["Subject"] = notification.subject
    document["Message"] = notification.body_for(subscription.protocol)
    document["Timestamp"] = notification.timestamp
    if not topic.is_fifo:
        _sign(call, topic, document, notification.signatures)
    document["UnsubscribeURL"] = (
        f"{call.base_url}/?Action=Unsubscribe&SubscriptionArn={quote(subscription.arn, safe=':')}"
    )
    if notification.attributes:
        document["MessageAttributes"] = {
            name: {
                "Type": attribute["DataType"],
                "Value": attribute["StringValue"]
                if "StringValue" in attribute
                else b64encode(attribute["BinaryValue"]).decode(),
            }
            for name, attribute in notification.attributes.items()
        }
    return json.dumps(document, ensure_ascii=False)


def subscription_confirmation(
    call: Call, subscription: Subscription, *, is_unsubscribe: bool = False
) -> HttpMessage:
    """Return the request to confirm a subscription, or to take back that it ended."""
    topic = subscription.topic
    if is_unsubscribe:
        kind = "UnsubscribeConfirmation"
        text = (
            f"You have chosen to deactivate subscription {subscription.arn}.\nTo cancel this operation and restore the "
            "subscription, visit the SubscribeURL included in this message."
        )
    else:
        kind = "SubscriptionConfirmation"
        text = (
            f"You have chosen to subscribe to the topic {topic.arn}.\nTo confirm the subscription, visit the "
            "SubscribeURL included in this message."
        )
    document = {
        "Type": kind,
        "MessageId": new_uuid(),
        "Token": subscription.token,
        "TopicArn": topic.arn,
        "Message": text,
        "SubscribeURL": f"{call.base_url}/?Action=ConfirmSubscription&TopicArn={quote(topic.arn, safe=':')}"
        f"&Token={subscription.token}",
        "Timestamp": timestamp_of(call.broker.clock.now()),
    }
    _sign(call, topic, document, {})
    return HttpMessage(kind, document["MessageId"], json.dumps(document, indent=2))


def _sign(call: Call, topic: Topic, document: dict[str, Any], signatures: dict[str, str]) -> None:
    # Subscriptions with the same text share the signature, which takes half a millisecond.
    text = document["Message"]
    if text not in signatures:
        signatures[text] = call.broker.signer.sign(document, topic.signature_version)
    document["SignatureVersion"] = topic.signature_version
    document["Signature"] = signatures[text]
    document["SigningCertURL"] = f"{call.base_url}/{call.broker.signer.certificate_name}"
