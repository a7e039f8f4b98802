"""HTTP/1.1 as far as the clients of AWS need it: reading requests, writing answers.

Nothing is guessed. A request that two servers could read in two ways is refused, since a proxy in front may have read
it in the other.
"""

from __future__ import annotations

import math
import re
import socket
import threading
import time
from typing import Literal, NamedTuple

REQUEST_SECONDS = 60.0
"""How long a request may take to come, from its first byte. Between requests a client may be silent as long as it likes."""

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 16 * 1_048_576
"""More than any operation takes: ten entries of 1 MiB in all, each byte written as a JSON escape."""

_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.([01])")
_HEADERS = re.compile(r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*+(?:\r\n(?!\Z)|\Z))*+")
_ONLY_ONCE = {"content-length", "transfer-encoding", "host", "authorization"}
_MAX_LENGTH_DIGITS = 12
_CHUNK_LENGTH = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")

_REASONS = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class BadRequestError(Exception):
    """A request that cannot be read. The connection has to be closed: where the next one begins is unknown."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request(NamedTuple):
    """One HTTP request. The names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    keeps_alive: bool = True


class BodyMemory:
    """The memory of bodies from their receipt to their answer, on all connections together. Thread-safe.

    Args:
        max_bytes: bodies are refused while others take more than this; None means no limit.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Count bytes that were received; return False if they are too many, and are not counted."""
        with self._lock:
            if self._taken + size > self._max_bytes:
                return False
            self._taken += size
            return True

    def release(self, size: int) -> None:
        """Stop counting these bytes."""
        with self._lock:
            self._taken -= size


class RequestReader:
    """Reads the requests of one connection, one after the other; call ``release`` once each is answered.

    Args:
        memory: counts the bodies of all connections. Small requests are not counted, to cost nothing.
        connection: a blocking socket, which is the caller's to close. Its receive timeout, if it has one, is how often
            this looks whether a request takes too long.
    """

    def __init__(self, connection: socket.socket, memory: BodyMemory | None = None) -> None:
        self._connection = connection
        self._memory = memory or BodyMemory()
        self._counted = 0
        self._received = 0
        self._buffer = bytearray()
        self._give_up_at = math.inf

    def read(self) -> Request | None:
        """Block until a request has come; None if the client has closed the connection.

        Raises:
            BadRequestError: what came is not a request, or is too large.
            OSError: the connection is broken.
        """
        end = self._find_end_of_head()
        if end < 0:
            return None
        request = parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        method, target, headers, _, keeps_alive = request
        if self._give_up_at == math.inf:
            self._give_up_at = time.monotonic() + REQUEST_SECONDS
        if "transfer-encoding" in headers:
            body = self._read_chunks(request)
        else:
            length = _length_of(headers)
            if length:
                self._allow_body(request)
            body = self._take(length)
        self._give_up_at = math.inf
        return Request(method, target, headers, body, keeps_alive)

    def release(self) -> None:
        """Stop counting the memory of the last request. Idempotent."""
        self._memory.release(self._counted)
        self._counted = self._received = 0

    def is_client_there(self) -> bool:
        """Return False if the client has closed the connection. Does not block."""
        if self._buffer:
            return True
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _find_end_of_head(self) -> int:
        searched = 0
        while True:
            while not searched and self._buffer[:2] == b"\r\n":  # some clients send an empty line too many
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n\r\n", max(0, searched - 3))
            if end >= 0:
                if end > MAX_HEAD_BYTES:
                    raise BadRequestError(431, "the head of the request is too large")
                return end
            searched = len(self._buffer)
            if searched and self._give_up_at == math.inf:
                self._give_up_at = time.monotonic() + REQUEST_SECONDS
            if searched > MAX_HEAD_BYTES:
                raise BadRequestError(431, "the head of the request is too large")
            if not self._fill():
                if self._buffer:
                    raise BadRequestError(400, "the connection ended within a request")
                return -1

    def _fill(self) -> bool:
        while time.monotonic() < self._give_up_at:
            try:
                received = self._connection.recv(65_536)
            except BlockingIOError:  # nothing has come within the receive timeout
                continue
            self._received += len(received)
            if self._received > MAX_HEAD_BYTES:
                self._count(len(received))
            self._buffer += received
            return bool(received)
        raise BadRequestError(408, f"the request did not come within {REQUEST_SECONDS:g} seconds")

    def _count(self, size: int) -> None:
        if not self._memory.take(size):
            self._buffer.clear()  # at once: the client may still have its answer to read
            self.release()
            raise BadRequestError(
                503, "other requests take all memory for bodies: send it later, or raise --max-memory"
            )
        self._counted += size

    def _take(self, length: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < length:
            if not self._fill():
                raise BadRequestError(400, "the connection ended within a request")
        taken = bytes(buffer[:length])
        del buffer[:length]
        return taken

    def _take_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES or not self._fill():
                raise BadRequestError(400, "a chunk has no end")
        return self._take(end + 2)[:-2]

    def _read_chunks(self, request: Request) -> bytes:
        if "content-length" in request.headers:
            raise BadRequestError(400, "the request has both a length and chunks")
        if request.headers["transfer-encoding"].lower() != "chunked":
            raise BadRequestError(501, "the only transfer encoding is chunked")
        self._allow_body(request)
        body = bytearray()
        while True:
            found = _CHUNK_LENGTH.fullmatch(self._take_line())
            if found is None:
                raise BadRequestError(400, "a chunk has no length")
            length = int(found[1], 16)
            if len(body) + length > MAX_BODY_BYTES:
                raise BadRequestError(413, "the body of the request is too large")
            if not length:
                break
            body += self._take(length)
            if self._take(2) != b"\r\n":
                raise BadRequestError(400, "a chunk is longer than it says")
        for _ in range(100):
            if not self._take_line():  # trailers are ignored
                return bytes(body)
        raise BadRequestError(431, "the request has too many trailers")

    def _allow_body(self, request: Request) -> None:
        if "expect" in request.headers and request.headers["expect"].lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def parse_head(head: bytes) -> Request:
    """Return the request that begins with ``head``, without its body.

    Raises:
        BadRequestError: it is not HTTP, or ambiguous.
    """
    line, _, lines = head.decode("latin-1").partition("\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadRequestError(400, "the first line is not that of an HTTP/1.1 request")
    # One expression looks at all headers: this is done for each request, and they are many.
    if not _HEADERS.fullmatch(lines):
        raise BadRequestError(400, "a header has no name, or contains a control character")
    headers = _headers_of(lines.split("\r\n")) if lines else {}
    method, target, minor_version = found.groups()
    if minor_version == "0" and "transfer-encoding" in headers:
        raise BadRequestError(400, "HTTP/1.0 has no chunks")
    if minor_version == "1" and "host" not in headers:
        raise BadRequestError(400, "the request has no host header")
    connection = headers.get("connection", "").lower()
    keeps_alive = connection == "keep-alive" if minor_version == "0" else "close" not in connection
    return Request(method, target, headers, keeps_alive=keeps_alive)


def _headers_of(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition(":") for line in lines]
    headers = {name.lower(): value.strip(" \t") for name, _, value in pairs}
    if len(headers) == len(lines):  # as it nearly always is
        return headers
    headers = {}
    for name, _, value in pairs:
        key, text = name.lower(), value.strip(" \t")
        if key in headers:
            if key in _ONLY_ONCE:
                raise BadRequestError(400, f"the request has two headers {key}")
            text = f"{headers[key]},{text}"
        headers[key] = text
    return headers


def _length_of(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS):
        raise BadRequestError(400, "the content length is not a number")
    length = int(text)
    if length > MAX_BODY_BYTES:
        raise BadRequestError(413, "the body of the request is too large")
    return length


class Response(NamedTuple):
    """One HTTP answer."""

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    sent: Literal["all", "half", "nothing"] = "all"
    """How much of the body is sent before the connection is closed; with ``nothing``, no head either."""

    def encode(self, *, keeps_alive: bool, is_head: bool = False) -> bytes:
        """Return the bytes that are sent."""
        more = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        if not keeps_alive:
            more += "Connection: close\r\n"
        text = (
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Error')}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n{more}\r\n"
        )
        head = text.encode("latin-1", "replace")
        return head if is_head else head + self.body
