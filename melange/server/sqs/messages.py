"""A message of SQS: its attributes with their types, its checksums and its size; and what is refused."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from melange.drivers.sqs_rules import (
    FORBIDDEN_CHARACTER,
    IDENTIFIER,
    MAX_ATTRIBUTES,
    MAX_NAME_CHARACTERS,
)
from melange.server.errors import ServiceError, invalid_value, missing_parameter

Attributes = Mapping[str, Mapping[str, Any]]
"""Message attributes by name, each with its DataType and its StringValue or BinaryValue."""

NO_ATTRIBUTES: Attributes = {}

TRACE_HEADER = "AWSTraceHeader"
_OVERHEAD_BYTES = 700
"""About the memory of a message besides its text."""

_SAFE_BYTES = bytes({*range(0x20, 0x7F), 0x09, 0x0A, 0x0D})
_ATTRIBUTE_NAME = re.compile(
    r"(?!.*\.\.)(?!(?:[Aa][Ww][Ss]|[Aa][Mm][Aa][Zz][Oo][Nn])\.)(?!\.)[A-Za-z0-9_.\u00c0-\u017f-]{1,256}(?<!\.)"
)
"""SQS takes Latin letters with accents too, which its guide leaves out."""

DATA_TYPE = re.compile(r"(String|Number|Binary)(?:\.[^\ud800-\udfff]+)?")


class SentMessage:
    """A message as it was sent to a queue. Never changed."""

    __slots__ = ("attributes", "attributes_md5", "body", "body_md5", "sender_id", "size", "trace_header")

    def __init__(
        self, body: str, attributes: Attributes, *, sender_id: str, trace_header: str | None = None
    ) -> None:
        encoded = body.encode()
        self.body = body
        self.body_md5 = md5(encoded)
        self.attributes = attributes
        self.attributes_md5 = attributes_md5(attributes) if attributes else None
        self.size = len(encoded) + (attributes_size(attributes) if attributes else 0)
        self.sender_id = sender_id
        self.trace_header = trace_header

    @property
    def memory(self) -> int:
        """About the bytes of memory that it takes."""
        return self.size + _OVERHEAD_BYTES


def md5(data: bytes) -> str:
    """Return the MD5 in hexadecimal digits."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def attributes_md5(attributes: Attributes) -> str:
    """Return SQS's checksum of message attributes.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
    """
    parts: list[bytes] = []
    for name in sorted(attributes):
        attribute = attributes[name]
        is_text = "StringValue" in attribute
        value = attribute["StringValue"].encode() if is_text else attribute["BinaryValue"]
        for part in (name.encode(), attribute["DataType"].encode()):
            parts += (len(part).to_bytes(4, "big"), part)
        parts += (b"\x01" if is_text else b"\x02", len(value).to_bytes(4, "big"), value)
    return md5(b"".join(parts))


def attributes_size(attributes: Attributes) -> int:
    """Return the bytes of names, types and values."""
    return sum(
        text_size(name)
        + text_size(attribute["DataType"])
        + (
            text_size(attribute["StringValue"])
            if "StringValue" in attribute
            else len(attribute["BinaryValue"])
        )
        for name, attribute in attributes.items()
    )


def text_size(text: str) -> int:
    """Return the bytes of a text, which may have halves of surrogate pairs: JSON can write them."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def select_attributes(attributes: Attributes, names: list[str]) -> Attributes:
    """Return the attributes that a receive has asked for: by name, by prefix (``foo.*``), or all of them."""
    if not attributes or not names:
        return {}
    if not {"All", ".*", "*"}.isdisjoint(names):
        return attributes
    prefixes = tuple(name[:-2] for name in names if name.endswith(".*"))
    return {
        name: value
        for name, value in attributes.items()
        if name in names or name.startswith(prefixes or "\0")
    }


def check_body(body: str | None) -> str:
    """Return the body, or raise what SQS answers to it."""
    if not body:
        raise missing_parameter("MessageBody")
    forbidden = find_forbidden(body)
    if forbidden:
        raise ServiceError(
            "InvalidMessageContents",
            f"Invalid binary character '{forbidden}' was found in the message body, the set of allowed characters is "
            "#x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF",
        )
    return body


def find_forbidden(text: str) -> str | None:
    """Return the first character that SQS does not accept, as ``#x8``; None if there is none."""
    if text.isascii() and not text.encode().translate(None, _SAFE_BYTES):
        return None
    found = FORBIDDEN_CHARACTER.search(text)
    return f"#x{ord(found[0]):X}" if found else None


def check_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> Attributes:
    """Return message attributes without what is empty, or raise what SQS answers to them."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise _invalid(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
        )
    return {name: _check_attribute(name, attribute) for name, attribute in attributes.items()}


def check_system_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the trace header, or raise what SQS answers to the system attributes."""
    for name, attribute in attributes.items():
        if name != TRACE_HEADER:
            raise _invalid(
                f"Message system attribute name '{name}' is invalid. Supported attributes: {TRACE_HEADER}."
            )
        if attribute.get("DataType") != "String" or not attribute.get("StringValue"):
            raise _invalid(
                f"Message system attribute '{name}' must contain a non-empty value of type 'String'."
            )
        forbidden = find_forbidden(attribute["StringValue"])
        if forbidden:
            raise _invalid(
                f"Invalid binary character '{forbidden}' was found in the message system attribute '{name}'."
            )
    return attributes[TRACE_HEADER]["StringValue"] if attributes else None


def check_identifier(name: str, value: str) -> None:
    """Raise what SQS answers to a group or deduplication id that is not allowed."""
    if not IDENTIFIER.fullmatch(value):
        raise invalid_value(
            value,
            name,
            f"{name} can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        )


def _check_attribute(name: str, attribute: Mapping[str, Any]) -> Mapping[str, Any]:
    _check_name(name)
    data_type = attribute.get("DataType", "")
    if not data_type:
        raise _invalid(f"The message attribute '{name}' must contain message attribute type.")
    found = DATA_TYPE.fullmatch(data_type)
    if found is None or len(data_type) > MAX_NAME_CHARACTERS:
        raise _invalid(
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type "
            "prefixes is Binary, Number, and String."
        )
    field, kind = ("BinaryValue", "Binary") if found[1] == "Binary" else ("StringValue", "String")
    value = attribute.get(field)
    if not value:
        other = attribute.get("BinaryValue" if kind == "String" else "StringValue")
        if other:
            raise _invalid(f"The message attribute '{name}' with type '{found[1]}' must use field '{kind}'.")
        raise _invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    if kind == "String":
        forbidden = find_forbidden(value)
        if forbidden:
            raise _invalid(
                f"Invalid binary character '{forbidden}' was found in the message attribute '{name}'."
            )
        if found[1] == "Number" and not is_number_text(value):
            raise _invalid(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return {"DataType": data_type, field: value}


def is_number_text(text: str) -> bool:
    """Return True if the text is a number of SQS."""
    try:
        return text.isascii() and "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _check_name(name: str) -> None:
    if not _ATTRIBUTE_NAME.fullmatch(name):
        raise _invalid(
            f"Message (user) attribute name {name!r:.300} is invalid. Up to 256 letters, digits, hyphens, underscores "
            "and dots are allowed, no dot at the beginning, at the end or after another, and no beginning with AWS. or "
            "Amazon."
        )


def _invalid(message: str) -> ServiceError:
    return ServiceError("InvalidParameterValue", message)
