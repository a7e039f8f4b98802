"""The message that travels in place of a large event, in the format of AWS's extended clients.

https://github.com/awslabs/payload-offloading-java-lib-for-aws
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from melange.messages import Message

SIZE_HEADER = "ExtendedPayloadSize"
"""The size of the body in bytes; its presence says that the message's own body is a pointer."""

OLD_SIZE_HEADER = "SQSLargePayloadSize"

DIGEST_HEADER = "extended-payload-sha256"
ENCODING_HEADER = "extended-payload-encoding"

HEADERS = frozenset({SIZE_HEADER, OLD_SIZE_HEADER, DIGEST_HEADER, ENCODING_HEADER})

_CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"
_CLASSES = frozenset({_CLASS, "com.amazon.sqs.javamessaging.MessageS3Pointer"})


class MalformedPointerError(Exception):
    """The message says that it has a pointer, and has none."""


class Pointer(NamedTuple):
    """Where a body is stored, and what is known of it. From others it has neither ``digest`` nor ``encoding``."""

    bucket: str
    key: str
    size: int
    digest: str | None = None
    encoding: str | None = None


def is_pointer(message: Message) -> bool:
    """Return True if the body of the message is a pointer."""
    return SIZE_HEADER in message.headers or OLD_SIZE_HEADER in message.headers


def pointer_message(message: Message, pointer: Pointer) -> Message:
    """Return the message with the pointer in place of its body."""
    # First, because a message has ten attributes, and only the first headers have one of their own.
    headers = {SIZE_HEADER: str(pointer.size)}
    if pointer.digest is not None:
        headers[DIGEST_HEADER] = pointer.digest
    if pointer.encoding is not None:
        headers[ENCODING_HEADER] = pointer.encoding
    place = {"s3BucketName": pointer.bucket, "s3Key": pointer.key}
    return message._replace(
        body=json.dumps([_CLASS, place]), headers=MappingProxyType({**headers, **message.headers})
    )


def pointer_of(message: Message) -> Pointer:
    """Return the pointer that the message has in place of its body.

    Raises:
        MalformedPointerError: says what is wrong.
    """
    try:
        found = json.loads(message.body)
    except (ValueError, RecursionError) as error:
        raise MalformedPointerError("the pointer is not JSON") from error
    match found:
        case [str(name), {"s3BucketName": str(bucket), "s3Key": str(key)}] if name in _CLASSES:
            size = message.headers.get(SIZE_HEADER) or message.headers.get(OLD_SIZE_HEADER, "")
            if not (size.isascii() and size.isdecimal() and len(size) < len(str(2**63))):
                raise MalformedPointerError("its size is not a number")
            return Pointer(
                bucket,
                key,
                int(size),
                message.headers.get(DIGEST_HEADER),
                message.headers.get(ENCODING_HEADER),
            )
    raise MalformedPointerError("the pointer has another form than AWS's")


def without_pointer(message: Message, body: str) -> Message:
    """Return the message with its own body, and without the headers of the pointer."""
    headers: Mapping[str, str] = {
        name: value for name, value in message.headers.items() if name not in HEADERS
    }
    return message._replace(body=body, headers=MappingProxyType(dict(headers)))
