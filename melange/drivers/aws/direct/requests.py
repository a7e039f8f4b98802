"""The parameters of each direct call as a request body, and its answer as botocore would return it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote_json
from typing import Any
from urllib.parse import quote_plus
from xml.etree import ElementTree

from melange.drivers.aws.operations import Answer, Parameters, UnreadableAnswer


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """How one operation is asked and answered."""

    operation: str
    headers: Mapping[str, str]
    write: Callable[[Parameters], bytes]
    read: Callable[[bytes], Answer]


_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def _read_json(body: bytes) -> Answer:
    try:
        answer = _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswer("it is not JSON") from error
    if not isinstance(answer, dict):
        raise UnreadableAnswer("it is not a JSON object")
    if b'"BinaryValue"' in body:
        _decode_binary_values(answer)
    return answer


def _decode_binary_values(answer: Answer) -> None:
    try:
        for message in answer.get("Messages") or ():
            for attribute in (message.get("MessageAttributes") or {}).values():
                if attribute.get("BinaryValue") is not None:
                    attribute["BinaryValue"] = b64decode(attribute["BinaryValue"])
    except (AttributeError, TypeError, ValueError) as error:
        raise UnreadableAnswer("a binary attribute is malformed") from error


def _write_json(parameters: Parameters) -> bytes:
    return _encode(parameters).encode()


@lru_cache(256)
def _write_receive(items: tuple[tuple[str, Any], ...]) -> bytes:
    return _write_json(dict(items))


def _write_repeatedly(parameters: Parameters) -> bytes:
    """Write ``ReceiveMessage``: a queue is asked the same again and again, but for the ids of attempts."""
    if "ReceiveRequestAttemptId" in parameters:
        return _write_json(parameters)
    return _write_receive(tuple(parameters.items()))


def _write_deletes(parameters: Parameters) -> bytes:
    """Write ``DeleteMessageBatch`` in half of the time of an encoder of everything."""
    entries = [
        f'{{"Id":"{entry["Id"]}","ReceiptHandle":{_quote_json(entry["ReceiptHandle"])}}}'
        for entry in parameters["Entries"]
    ]
    url = _quote_json(parameters["QueueUrl"])
    return f'{{"QueueUrl":{url},"Entries":[{",".join(entries)}]}}'.encode()


def _sqs(operation: str, write: Callable[[Parameters], bytes] = _write_json) -> DirectRequest:
    return DirectRequest(
        operation,
        {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AmazonSQS.{operation}",
            "x-amzn-query-mode": "true",  # SQS then tells errors by the codes of its older protocol too
        },
        write,
        _read_json,
    )


_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"
_IN_JSON = [(character.encode(), quote_plus(character).encode()) for character in '":,{}[]+ ']
"""What JSON has most of; a plus before the space, which becomes one."""

_JSON_MARKS = b"".join([mark for mark, _ in _IN_JSON])


def quote_form(text: str) -> bytes:
    """Return ``text`` as ``quote_plus`` does, in a sixth of the time if it is JSON in ASCII."""
    if not text.isascii():
        return quote_plus(text).encode()
    quoted = text.encode()
    reserved = quoted.translate(None, _UNRESERVED)
    if not reserved:
        return quoted
    others = set(reserved.translate(None, _JSON_MARKS))
    for byte in sorted(others, key=lambda byte: byte != ord("%")):  # the percent signs of the text, then ours
        quoted = quoted.replace(bytes([byte]), b"%%%02X" % byte)
    for mark, replacement in _IN_JSON:
        quoted = quoted.replace(mark, replacement)
    return quoted


@lru_cache(1024)
def _field_head(entry: int, name: str) -> bytes:
    return f"&PublishBatchRequestEntries.member.{entry}.{name}=".encode()


@lru_cache(4096)
def _attribute_head(entry: int, position: int, name: str, data_type: str) -> bytes:
    prefix = f"&PublishBatchRequestEntries.member.{entry}.MessageAttributes.entry.{position}."
    value_prefix = f"{prefix}Value."
    return (
        f"{prefix}Name={quote_plus(name)}{value_prefix}DataType={quote_plus(data_type)}"
        f"{value_prefix}StringValue="
    ).encode()


def _write_publish_batch(parameters: Parameters) -> bytes:
    parts = [b"Action=PublishBatch&Version=2010-03-31&TopicArn=", quote_form(parameters["TopicArn"])]
    for number, entry in enumerate(parameters["PublishBatchRequestEntries"], 1):
        for name, value in entry.items():
            if name != "MessageAttributes":
                parts += (_field_head(number, name), quote_form(value))
        for position, (name, attribute) in enumerate(entry["MessageAttributes"].items(), 1):
            head = _attribute_head(number, position, name, attribute["DataType"])
            parts += (head, quote_form(attribute["StringValue"]))
    return b"".join(parts)


_NO_FAILURES = r"(?:<Failed/>|<Failed>\s*</Failed>)?"
_FIELD = r"<(?:MessageId|SequenceNumber|Id)>[\w-]*</(?:MessageId|SequenceNumber|Id)>\s*"
_ALL_SUCCEEDED = re.compile(
    r"\s*".join(
        (
            r"(?:<\?xml[^<>]*\?>)?",
            "<PublishBatchResponse[^<>]*>",
            "<PublishBatchResult>",
            _NO_FAILURES,
            "<Successful>",
            rf"((?:<member>\s*(?:{_FIELD})*</member>\s*)*)",
            "</Successful>",
            _NO_FAILURES,
            "</PublishBatchResult>",
            r"(?:<ResponseMetadata>\s*<RequestId>[\w-]*</RequestId>\s*</ResponseMetadata>)?",
            "</PublishBatchResponse>",
            "",
        )
    ).encode()
)
_ENTRY_ID = re.compile(rb"<Id>([\w-]*)</Id>")


def _read_publish_batch(body: bytes) -> Answer:
    """Return the ids of the entries that succeeded, and all about those that failed."""
    plain = _ALL_SUCCEEDED.fullmatch(body)
    if plain:  # nearly always, and several times as fast
        return {"Successful": [{"Id": entry_id.decode()} for entry_id in _ENTRY_ID.findall(plain[1])]}
    try:
        # As botocore parses it, over TLS; expat limits how far entities expand.
        root = ElementTree.XML(body)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableAnswer("it is not XML") from error
    answer: Answer = {
        outcome: [
            {field.tag.rpartition("}")[2]: field.text or "" for field in member}
            for member in root.iterfind(f"{{*}}PublishBatchResult/{{*}}{outcome}/{{*}}member")
        ]
        for outcome in ("Successful", "Failed")
    }
    for entry in answer["Failed"]:
        entry["SenderFault"] = entry.get("SenderFault") == "true"
    return answer


DIRECT_REQUESTS = {
    "publish_batch": DirectRequest(
        "PublishBatch",
        {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        _write_publish_batch,
        _read_publish_batch,
    ),
    "send_message_batch": _sqs("SendMessageBatch"),
    "receive_message": _sqs("ReceiveMessage", _write_repeatedly),
    "delete_message_batch": _sqs("DeleteMessageBatch", _write_deletes),
    "change_message_visibility_batch": _sqs("ChangeMessageVisibilityBatch"),
}
"""By the names of boto3's methods."""
