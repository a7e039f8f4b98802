"""Signature Version 4 for requests that are all alike but for their body.

See https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from botocore.exceptions import HTTPClientError
from botocore.utils import normalize_url_path

from melange.drivers.aws.errors import INVALID_HEADER

_BREAKS_LINES = frozenset("\0\r\n")


class _Prepared(NamedTuple):
    """What requests of the same second and with the same credentials have in common.

    The hashes have taken in all but the end. To copy one costs a fraction of a new one: OpenSSL looks up its algorithms
    each time.
    """

    second: int
    credentials: Any
    head: bytes
    canonical_request: Any
    inner: Any
    outer: Any


class RequestSigner:
    """Writes the signed head of ``POST`` requests to one URL with the same headers. Thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        target: str,
        service: str,
        region: str,
        headers: Mapping[str, str],
        unsigned: Mapping[str, str],
    ) -> None:
        """Take the URL to sign, the request target to send, and the headers to sign and not to sign."""
        parts = urlsplit(url)
        self._path = quote(normalize_url_path(parts.path), safe="/~")
        self._scope = f"{region}/{service}/aws4_request"
        self._region, self._service = region, service
        self._headers = {"host": host_of(url)} | {name.lower(): value for name, value in headers.items()}
        self._head = f"POST {target} HTTP/1.1\r\n" + _lines(unsigned)
        self._prepared: _Prepared | None = None

    def head(self, body: bytes, credentials: Any, now: float | None = None) -> bytes:
        """Return the head of a request with this body, the empty line included.

        ``credentials`` are botocore's frozen ones; ``now`` is the time of the signature, in seconds since 1970.
        """
        second = int(time.time() if now is None else now)
        prepared = self._prepared
        if prepared is None or prepared.second != second or prepared.credentials != credentials:
            prepared = self._prepared = self._prepare(second, credentials)
        canonical_request = prepared.canonical_request.copy()
        canonical_request.update(sha256(body).hexdigest().encode())
        inner = prepared.inner.copy()
        inner.update(canonical_request.hexdigest().encode())
        outer = prepared.outer.copy()
        outer.update(inner.digest())
        return b"%b%b\r\nContent-Length: %d\r\n\r\n" % (
            prepared.head,
            outer.hexdigest().encode(),
            len(body),
        )

    def _prepare(self, second: int, credentials: Any) -> _Prepared:
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        date = moment[:8]
        headers = self._headers | {"x-amz-date": moment}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        names = sorted(headers)
        canonical = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
        signed = ";".join(names)
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{date}/{self._scope}, "
            f"SignedHeaders={signed}, Signature="
        )
        inner, outer = _hmac_of(_signing_key(credentials.secret_key, date, self._region, self._service))
        inner.update(f"AWS4-HMAC-SHA256\n{moment}\n{date}/{self._scope}\n".encode())
        return _Prepared(
            second,
            credentials,
            f"{self._head}{_lines(headers)}".removesuffix("\r\n").encode(),
            sha256(f"POST\n{self._path}\n\n{canonical}\n{signed}\n".encode()),
            inner,
            outer,
        )


def host_of(url: str) -> str:
    """Return the value of the ``Host`` header for ``url``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    is_default = parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)}
    return host if is_default else f"{host}:{parts.port}"


def _signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _hmac_of(key: bytes) -> tuple[Any, Any]:
    """Return the inner and the outer hash of HMAC (RFC 2104), which have taken in the key."""
    block = key.ljust(64, b"\0")
    return sha256(bytes(byte ^ 0x36 for byte in block)), sha256(bytes(byte ^ 0x5C for byte in block))


def _lines(headers: Mapping[str, str]) -> str:
    if not _BREAKS_LINES.isdisjoint("".join(headers.values())):
        # As botocore, but without the value: the usual reason is a token that was read with its line break.
        raise HTTPClientError(error=ValueError(INVALID_HEADER))
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
