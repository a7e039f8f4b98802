"""The types of events that AWS itself sends, for the ``event_type=`` of a consumer.

Each function takes the body and the headers of a message and returns the name of the type, or None if it does not
recognise the message. The listener gets the body as AWS sent it, a dict. Every sender that the queue's policy allows
can send a body that looks like one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SES_TOPIC_TEST = "Successfully validated SNS topic for Amazon SES event publishing"
_SNS_TYPES = ("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation")


def aws_event_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return the type of any event that the other functions of this module recognise."""
    for event_type in (
        s3_event_type,
        eventbridge_event_type,
        cloudwatch_alarm_type,
        ses_event_type,
        sns_event_type,
    ):
        name = event_type(body, headers)
        if name is not None:
            return name
    return None


def s3_event_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return the name that S3 gives the event: ``s3:ObjectCreated:Put``, or ``s3:TestEvent`` after configuration.

    The listener gets the whole body. ``Records`` is a list, although S3 puts a single record into it today;
    the first record says the type. Keys of objects are URL-encoded.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    if not isinstance(body, dict):
        return None
    if body.get("Service") == "Amazon S3" and body.get("Event") == "s3:TestEvent":
        return "s3:TestEvent"
    records = body.get("Records")
    record = records[0] if isinstance(records, list) and records else None
    if not isinstance(record, dict) or record.get("eventSource") != "aws:s3":
        return None
    return _prefixed("s3", record.get("eventName"))


def eventbridge_event_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return the ``detail-type`` of an EventBridge event, whichever service or application is its source.

    https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
    """
    if not isinstance(body, dict) or not isinstance(body.get("source"), str) or "detail" not in body:
        return None
    return _name(body.get("detail-type"))


def cloudwatch_alarm_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return ``cloudwatch:Alarm`` for an alarm's notification to an SNS topic; ``NewStateValue`` has the state.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Notify_Users_Alarm_Changes.html
    """
    if not isinstance(body, dict):
        return None
    is_alarm = all(isinstance(body.get(key), str) for key in ("AlarmName", "NewStateValue"))
    return "cloudwatch:Alarm" if is_alarm else None


def ses_event_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return ``ses:Bounce``, ``ses:Complaint``, ``ses:Delivery``, ... for a notification of SES about an e-mail.

    Also ``ses:AmazonSnsSubscriptionSucceeded`` and ``ses:TopicValidated``, with which SES tests a new topic. The
    body of the latter is text, so the listener gets a text.
    https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
    """
    if isinstance(body, str):
        return "ses:TopicValidated" if body.startswith(_SES_TOPIC_TEST) else None
    if not isinstance(body, dict):
        return None
    name = body.get("eventType") or body.get("notificationType")
    if not isinstance(body.get("mail"), dict) and name != "AmazonSnsSubscriptionSucceeded":
        return None
    return _prefixed("ses", name)


def sns_event_type(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return ``sns:SubscriptionConfirmation``, ``sns:UnsubscribeConfirmation`` or ``sns:Notification``.

    A subscription of a queue in another account has to be confirmed: visit the ``SubscribeURL``, once you know the
    topic. Its ``Token`` is a secret. The aws driver removes the envelope of a notification; a
    ``sns:Notification`` had a second envelope within it.
    https://docs.aws.amazon.com/sns/latest/dg/http-subscription-confirmation-json.html
    """
    if not isinstance(body, dict) or not isinstance(body.get("TopicArn"), str):
        return None
    name = body.get("Type")
    return f"sns:{name}" if name in _SNS_TYPES else None


def _prefixed(service: str, name: Any) -> str | None:
    return f"{service}:{name}" if _name(name) else None


def _name(name: Any) -> str | None:
    return name if isinstance(name, str) and name else None
