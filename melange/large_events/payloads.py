"""The bodies of large events in their store: compressed if asked for, read within a limit, checked, deleted."""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from melange.errors import ConfigurationError, DriverConnectionError, Failure, MelangeError
from melange.large_events.pointers import (
    MalformedPointerError,
    Pointer,
    is_pointer,
    pointer_message,
    pointer_of,
    without_pointer,
)
from melange.large_events.stores import PayloadMissingError, PayloadStore
from melange.messages import UNREADABLE, Delivery, Message, new_uuid

logger = logging.getLogger(__name__)

Compression = Literal["gzip", "zstd"]

TOPICS = "topics"
QUEUES = "queues"


class UnreadablePayloadError(Exception):
    """A stored payload is damaged, too large, or in an unknown form; says which."""


class ReceivedPointer(NamedTuple):
    """The value of ``Delivery.received``: the delivery of the pointer, as the other driver gave it."""

    original: Delivery
    pointer: Pointer | None


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of a store, under ``prefix``."""

    store: PayloadStore
    prefix: str
    max_bytes: int
    compression: Compression | None
    readable_buckets: Collection[str]

    def stored(self, folder: str, message: Message) -> Message:
        """Store the body; return the message with a pointer in its place."""
        body = message.body.encode(errors="surrogatepass")
        # A key of its own for each message, so that neither a second publish nor a deletion changes another's payload.
        key = f"{self.prefix}{folder}/{quote(message.message_id, safe='')}-{new_uuid()}"
        self.store.put(key, compressed(body, self.compression))
        digest = hashlib.sha256(body).hexdigest()
        return pointer_message(message, Pointer(self.store.bucket, key, len(body), digest, self.compression))

    def with_payload(self, delivery: Delivery) -> Delivery:
        """Return the delivery with the body to which its pointer leads, if it has one.

        What can never be read gets a content type that says why, so that it is dead-lettered.

        Raises:
            MelangeError: the store is out of reach; a later try may succeed.
        """
        message = delivery.message
        if not is_pointer(message):
            return delivery
        try:
            pointer = pointer_of(message)
        except MalformedPointerError as error:
            return delivery._replace(
                message=_unreadable(message, str(error)), received=ReceivedPointer(delivery, None)
            )
        try:
            full = without_pointer(message, self._payload(pointer))
        except PayloadMissingError:
            full = _unreadable(message, "there is no such payload")
        except UnreadablePayloadError as error:
            full = _unreadable(message, str(error))
        return delivery._replace(message=full, received=ReceivedPointer(delivery, pointer))

    def _payload(self, pointer: Pointer) -> str:
        if pointer.bucket not in self.readable_buckets:
            raise UnreadablePayloadError(
                "its bucket is not one of those that may be read: name it in readable_buckets="
            )
        if pointer.size > self.max_bytes:
            raise UnreadablePayloadError(f"it has more than {self.max_bytes:,} bytes")
        try:
            stored = self.store.get(pointer.bucket, pointer.key, self.max_bytes)
        except (MelangeError, PayloadMissingError):
            raise
        except Exception as error:
            raise DriverConnectionError(f"reading a large event failed: {type(error).__name__}") from error
        if len(stored) > self.max_bytes:
            raise UnreadablePayloadError(f"it has more than {self.max_bytes:,} bytes")
        body = decompressed(stored, pointer.encoding, self.max_bytes)
        if pointer.digest is not None and hashlib.sha256(body).hexdigest() != pointer.digest:
            raise UnreadablePayloadError("its SHA-256 is another than the message says")
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise UnreadablePayloadError("it is not UTF-8") from error

    def delete(self, delivery: Delivery) -> None:
        """Delete the payload if it was sent to this queue by a program with the same bucket and prefix."""
        pointer = delivery.received.pointer if isinstance(delivery.received, ReceivedPointer) else None
        # What was published to a topic belongs to other queues too, and what others wrote is theirs.
        own = f"{self.prefix}{QUEUES}/{delivery.queue.name}/"
        if pointer is None or pointer.bucket != self.store.bucket or not pointer.key.startswith(own):
            return
        try:
            self.store.delete(pointer.bucket, pointer.key)
        except Exception as error:
            logger.warning("a large event is acknowledged, its payload stays: %s", type(error).__name__)


def _unreadable(message: Message, problem: str) -> Message:
    return message._replace(content_type=f"{UNREADABLE}a large event, and {problem}")


def original_of(delivery: Delivery) -> Delivery:
    """Return the delivery as the other driver gave it."""
    if isinstance(delivery.received, ReceivedPointer):
        return delivery.received.original._replace(deadline=delivery.deadline)
    return delivery


def of_deliveries(
    failures: Iterable[Failure[Delivery]], deliveries: Sequence[Delivery]
) -> list[Failure[Delivery]]:
    """Return the failures with the deliveries that the caller knows."""
    by_handle = {delivery.receipt_handle: delivery for delivery in deliveries}
    return [Failure(by_handle.get(one.item.receipt_handle, one.item), one.error) for one in failures]


def check_compression(compression: object) -> None:
    """Raise ``ConfigurationError`` for a compression that is unknown or not installed."""
    if compression == "zstd":
        _zstandard()
    elif compression not in (None, "gzip"):
        raise ConfigurationError(f"compression must be 'gzip', 'zstd' or None, not {compression!r}")


def compressed(payload: bytes, compression: Compression | None) -> bytes:
    """Return the payload as it is stored."""
    if compression == "gzip":
        return gzip.compress(payload, mtime=0)
    if compression == "zstd":
        stored: bytes = _zstandard().ZstdCompressor().compress(payload)
        return stored
    return payload


def decompressed(stored: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Return the payload; stop at ``max_bytes``, because a small object can become a huge one.

    Raises:
        UnreadablePayloadError: it is larger, damaged, or its encoding is unknown here.
    """
    if encoding is None:
        payload = stored
    elif encoding == "gzip":
        payload = _from_gzip(stored, max_bytes)
    elif encoding == "zstd":
        payload = _from_zstd(stored, max_bytes)
    else:
        raise UnreadablePayloadError("its encoding is neither gzip nor zstd")
    if len(payload) > max_bytes:
        raise UnreadablePayloadError(f"it has more than {max_bytes:,} bytes")
    return payload


def _from_gzip(stored: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        return decompressor.decompress(stored, max_bytes + 1)
    except zlib.error as error:
        raise UnreadablePayloadError("it is not gzip") from error


def _from_zstd(stored: bytes, max_bytes: int) -> bytes:
    try:
        zstandard = _zstandard()
    except ConfigurationError as error:
        raise UnreadablePayloadError("it is zstd, which needs the extra melange[s3]") from error
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
            payload: bytes = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise UnreadablePayloadError("it is not zstd") from error
    return payload


def _zstandard() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ConfigurationError(
            "compression='zstd' needs zstandard: pip install '.[s3]' in a checkout of melange"
        ) from error
    return zstandard
