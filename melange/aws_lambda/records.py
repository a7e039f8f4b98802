"""The records of SQS and SNS in the form in which SQS itself returns messages.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html#example-standard-queue-message-event and
https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from melange.errors import ConfigurationError, shortened

SQS = "aws:sqs"
SNS = "aws:sns"


def records_of(event: object) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the source of an event, ``SQS`` or ``SNS``, and its records.

    Raises:
        ConfigurationError: it is another event.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list) and all(isinstance(record, dict) for record in records):
        sources = {record.get("eventSource") or record.get("EventSource") for record in records}
        if not records:
            return SQS, records
        if sources in ({SQS}, {SNS}):
            return sources.pop(), records
    found = f"keys {shortened(sorted(map(str, event)))}" if isinstance(event, dict) else type(event).__name__
    raise ConfigurationError(
        f"this function was invoked with something else than records of SQS or SNS ({found}): connect it to a queue with an "
        "event source mapping, or to a topic with a subscription. Events of EventBridge and S3 reach it through a queue"
    )


def queue_name_of(record: Mapping[str, Any]) -> str:
    """Return the name of the queue that a record of SQS comes from."""
    return str(record["eventSourceARN"]).rpartition(":")[2]


def from_sqs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of SQS as ``ReceiveMessage`` would have returned its message."""
    return {
        "MessageId": record["messageId"],
        "ReceiptHandle": record["receiptHandle"],
        "Body": record["body"],
        "Attributes": record.get("attributes") or {},
        "MessageAttributes": {
            name: _attribute(attribute) for name, attribute in (record.get("messageAttributes") or {}).items()
        },
    }


def from_sns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of SNS as ``ReceiveMessage`` would have returned it from a queue with raw delivery."""
    notification = record["Sns"]
    return {
        "MessageId": notification["MessageId"],
        "ReceiptHandle": "",
        "Body": notification["Message"],
        "Attributes": {},
        "MessageAttributes": {
            name: {"DataType": attribute.get("Type"), "StringValue": attribute.get("Value")}
            for name, attribute in (notification.get("MessageAttributes") or {}).items()
        },
    }


def _attribute(attribute: Mapping[str, Any]) -> dict[str, Any]:
    raw = {"DataType": attribute.get("dataType")}
    if attribute.get("stringValue") is not None:
        raw["StringValue"] = attribute["stringValue"]
    elif attribute.get("binaryValue") is not None:
        raw["BinaryValue"] = base64.b64decode(attribute["binaryValue"])
    return raw
