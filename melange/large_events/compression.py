"""Payloads as they are stored: compressed if asked for, and read within a limit."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, Literal

from melange.errors import ConfigurationError

Compression = Literal["gzip", "zstd"]


class UnreadablePayloadError(Exception):
    """A stored payload is damaged, too large, or in an unknown form; says which."""


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
