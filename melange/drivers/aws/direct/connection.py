"""One open connection: a request goes out, an answer comes back, within a time limit."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from melange.drivers.aws.direct.http import ClosedBeforeAnswer, HttpAnswer, read_answer

_RECEIVE_BYTES = 65_536


class Connection:
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
        """Return False if the other side has closed it, or has sent more than its answer, which must not become the next one."""
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
        if not (is_first and self._waits) and not self._is_pending():
            self._readable.poll(self._milliseconds_left())
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
