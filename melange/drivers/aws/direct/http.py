"""HTTP/1.1 over one open connection: a request goes out, its answer is read within a time limit.

As far as a client that only sends ``POST`` needs it (RFC 9112).
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from botocore.exceptions import IncompleteReadError

from melange.drivers.aws.operations import UnreadableAnswer

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 128 * 1_048_576
"""Ten messages of 1 MiB, each character escaped in JSON, fit in."""

_RECEIVE_BYTES = 65_536


class ClosedBeforeAnswer(Exception):
    """The other side closed the connection without a byte of an answer."""


class HttpAnswer(NamedTuple):
    """An answer; the names of its headers are in lower case, and those of a usual answer with status 200 are left out."""

    status: int
    headers: dict[str, str]
    body: bytes
    keeps_connection: bool


class HttpConnection:
    """Makes one exchange after the other; for one thread at a time.

    Time limits of Python's ask the system before each step if it can be taken. Here the system ends the waits of a plain
    socket, and a socket with TLS does not block: this class waits for it, when a step says that it has to.
    """

    __slots__ = ("_deadline", "_is_first", "_readable", "_socket", "_timeout", "_waits")

    def __init__(self, opened: Any, timeout: float | None) -> None:
        self._socket = opened
        self._timeout = timeout
        self._waits = _waits_by_itself(opened, timeout)
        if not self._waits:
            # TLS within the TLS of a proxy has no socket, and would lose data.
            opened.settimeout(0 if isinstance(opened, socket.socket) else timeout)
        self._readable = select.poll()
        self._readable.register(opened, select.POLLIN)
        self._deadline: float | None = None
        self._is_first = True

    def is_usable(self) -> bool:
        """Return False if the other side has closed it, or has sent more than its answer: that must not be the next one."""
        return not (self._readable.poll(0) or self._is_pending())

    def exchange(self, request: bytes) -> HttpAnswer:
        """Send a request and return the answer.

        Raises:
            ClosedBeforeAnswer: the other side closed the connection.
            TimeoutError: the answer is not complete in time.
            OSError, IncompleteReadError, UnreadableAnswer: see ``read_answer``.
        """
        self._is_first = True
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        try:
            sent = self._do(self._socket.send, request, select.POLLOUT)
            while sent < len(request):
                self._milliseconds_left()  # the system limits each wait, not all of them
                sent += self._do(self._socket.send, request[sent:], select.POLLOUT)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            raise ClosedBeforeAnswer from error
        return read_answer(self._receive)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        """Return the next bytes of an answer. One that comes byte by byte has the same time limit for all of them."""
        is_first, self._is_first = self._is_first, False
        waits_by_itself = is_first and self._waits
        if (
            not waits_by_itself
            and not self._is_pending()
            and not self._readable.poll(self._milliseconds_left())
        ):
            raise TimeoutError("the answer is not complete")
        try:
            received: bytes = self._do(self._socket.recv, _RECEIVE_BYTES, select.POLLIN)
        except ConnectionResetError as error:
            if is_first:
                raise ClosedBeforeAnswer from error
            raise
        return received

    def _is_pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _do(self, step: Callable[[Any], Any], argument: object, event: int) -> Any:
        """Return what a step of the socket returns, as soon as it can be taken."""
        while True:
            try:
                return step(argument)
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = event
            waiting = select.poll()
            waiting.register(self._socket, wanted)
            waiting.poll(self._milliseconds_left())

    def _milliseconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer is not complete")
        return left * 1_000


def _waits_by_itself(opened: Any, timeout: float | None) -> bool:
    """Let the system limit the waits of a socket; return False where it cannot: with TLS, and for sockets of gevent."""
    if sys.platform != "linux" or type(opened).__module__ != "socket":
        return False
    seconds = timeout or 0.0  # 0 means no limit
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    opened.settimeout(None)
    return True


_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?(?=\r\n|\Z)")
_HEADER = re.compile(r"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n]*)(?=\r\n|\Z)")
_OTHER_HEADERS = (
    rb"(?:connection: ?keep-alive\r\n"
    rb"|(?!connection|content-length|transfer-encoding)[!#$%&'*+.^_`|~0-9a-z-]+:[^\r\n]*\r\n)*"
)
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 200(?: [^\r\n]*)?\r\n%bcontent-length: ?([0-9]{1,8})\r\n%b\r\n"
    % (_OTHER_HEADERS, _OTHER_HEADERS),
    re.IGNORECASE,
)
"""Of nearly all answers: read in a quarter of the time, because nothing else in it matters."""

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")

Receive = Callable[[], bytes]
"""Returns the next bytes of a connection; none at its end."""


def read_answer(receive: Receive) -> HttpAnswer:
    """Return the answer that ``receive`` gives piece by piece.

    Raises:
        ClosedBeforeAnswer: there is none.
        IncompleteReadError: the connection ended within it.
        UnreadableAnswer: it is not HTTP/1.
    """
    received = receive()
    if not received:
        raise ClosedBeforeAnswer
    usual = _USUAL_HEAD.match(received)
    if usual:
        return _with_body(200, {}, int(usual[1]), received[usual.end() :], receive)
    while True:
        head, received = _split_head(received, receive)
        minor_version, status, headers = _parse_head(head)
        if status >= 200:
            break
        if status == 101:
            raise UnreadableAnswer("it changes the protocol")
        # An interim answer, such as 100 Continue: the real one follows.
    keeps = minor_version == "1"
    if "connection" in headers:
        tokens = {token.strip() for token in headers["connection"].lower().split(",")}
        keeps = "close" not in tokens if keeps else "keep-alive" in tokens
    if status in {204, 304}:
        return HttpAnswer(status, headers, b"", keeps and not received)
    if "transfer-encoding" in headers:
        body, rest = _read_chunks(received, receive, headers["transfer-encoding"])
        return HttpAnswer(status, headers, body, keeps and not rest and "content-length" not in headers)
    if "content-length" in headers:
        answer = _with_body(status, headers, _content_length(headers["content-length"]), received, receive)
        return answer if keeps else answer._replace(keeps_connection=False)
    return HttpAnswer(status, headers, _read_to_end(received, receive), keeps_connection=False)


def _with_body(
    status: int, headers: dict[str, str], length: int, received: bytes, receive: Receive
) -> HttpAnswer:
    body = received if len(received) >= length else _read_at_least(length, received, receive)
    return HttpAnswer(status, headers, body[:length], len(body) == length)


def _split_head(received: bytes, receive: Receive) -> tuple[bytes, bytes]:
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise UnreadableAnswer("its head is too long")
        received += _more(received, receive)
    return received[:end], received[end + 4 :]


def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    text = head.decode("latin-1")
    if "\r\n " in text or "\r\n\t" in text:
        # A folded header goes on in the next line.
        text = re.sub(r"\r\n[ \t]+", " ", text)
    status_line = _STATUS_LINE.match(text)
    found = _HEADER.findall(text)
    if not status_line:
        raise UnreadableAnswer("it is not HTTP/1")
    if len(found) != text.count("\r\n"):
        raise UnreadableAnswer("a header is malformed")
    headers: dict[str, str] = {}
    for mixed_case, padded in found:
        name, value = mixed_case.lower(), padded.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return status_line[1], int(status_line[2]), headers


def _content_length(text: str) -> int:
    length, *others = (value.strip() for value in text.split(",")) if "," in text else (text,)
    if any(other != length for other in others) or not (
        length.isascii() and length.isdecimal() and len(length) <= 12
    ):
        raise UnreadableAnswer("its length is malformed")
    if int(length) > MAX_BODY_BYTES:
        raise UnreadableAnswer("it is too long")
    return int(length)


def _read_at_least(length: int, received: bytes, receive: Receive) -> bytes:
    pieces, size = [received], len(received)
    while size < length:
        piece = receive()
        if not piece:
            raise IncompleteReadError(actual_bytes=size, expected_bytes=length)
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _read_to_end(received: bytes, receive: Receive) -> bytes:
    pieces, size = [received], len(received)
    while piece := receive():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise UnreadableAnswer("it is too long")
    return b"".join(pieces)


def _read_chunks(received: bytes, receive: Receive, coding: str) -> tuple[bytes, bytes]:
    """Return the body, and what was received after it."""
    if coding.lower() != "chunked":
        raise UnreadableAnswer("its transfer coding is unknown")
    chunks, total = [], 0
    while True:
        line, received = _split_line(received, receive)
        found = _CHUNK_SIZE.fullmatch(line)
        if not found:
            raise UnreadableAnswer("a chunk is malformed")
        size = int(found[1], 16)
        if not size:
            break
        total += size
        if total > MAX_BODY_BYTES:
            raise UnreadableAnswer("it is too long")
        received = _read_at_least(size + 2, received, receive)
        if received[size : size + 2] != b"\r\n":
            raise UnreadableAnswer("a chunk is malformed")
        chunks.append(received[:size])
        received = received[size + 2 :]
    while line:  # trailers, up to the empty line
        line, received = _split_line(received, receive)
    return b"".join(chunks), received


def _split_line(received: bytes, receive: Receive) -> tuple[bytes, bytes]:
    while (end := received.find(b"\r\n")) < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise UnreadableAnswer("a line is too long")
        received += _more(received, receive)
    return received[:end], received[end + 2 :]


def _more(received: bytes, receive: Receive) -> bytes:
    piece = receive()
    if not piece:
        raise IncompleteReadError(actual_bytes=len(received), expected_bytes=len(received) + 1)
    return piece
