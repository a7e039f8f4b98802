"""The port: accepting connections, one thread for each, until it is closed."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable

from melange.server.http import MAX_BODY_BYTES, BadRequestError, BodyMemory, Request, RequestReader, Response

logger = logging.getLogger(__name__)

Answer = Callable[[Request, Callable[[], bool]], Response]
"""Answers a request; the second argument says whether the client is still there."""

_STACK_BYTES = 512 * 1024
"""A thousand clients may wait at once, each in a thread."""


LOOK_SECONDS = 15.0
"""How often a connection is looked at while its request does not come whole."""

_SEND_SECONDS = 60.0
"""How long a client may take none of an answer before its connection is closed."""

_LAST_WORDS_SECONDS = 1.0
_LAST_WORDS_BYTES = 64 * 1_048_576
"""How long, and how much, a client may go on sending after its request was refused."""

_PAUSE_SECONDS = 0.1
"""The wait after a connection that could not be accepted: there are too many, until some of them end."""


class SocketListener:
    """Listens on an address and answers what comes. Thread-safe.

    A thread for each connection, as the broker's waits are blocking ones; see decision 0261.

    Args:
        max_body_bytes: requests are refused while the bodies of others take more than this; None means no limit. The
            limit is never below the largest body.

    Raises:
        OSError: the address is taken, or not ours.
    """

    def __init__(self, host: str, port: int, answer: Answer, max_body_bytes: int | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._answer = answer
        limit = None if max_body_bytes is None else max(max_body_bytes, MAX_BODY_BYTES)
        self._memory = BodyMemory(limit)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="melange-server", daemon=True)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def start(self) -> None:
        """Begin to answer; does not block."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and close all connections. Idempotent."""
        with self._lock:
            self._closing.set()
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _accept(self) -> None:
        is_refusing = False
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._closing.wait(_PAUSE_SECONDS):
                    return
                if not is_refusing:
                    logger.warning("connections cannot be accepted for now: %s", error)
                is_refusing = True
                continue
            is_refusing = False
            with self._lock:
                if self._closing.is_set():
                    connection.close()
                    return
                self._connections.add(connection)
            previous = threading.stack_size(_STACK_BYTES)
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # no more threads
                self._forget(connection)
            finally:
                threading.stack_size(previous)

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(LOOK_SECONDS))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SEND_SECONDS))
            reader = RequestReader(connection, self._memory)
            try:
                self._serve_requests(connection, reader)
            finally:
                reader.release()
        except OSError:  # the client is gone
            pass
        finally:
            self._forget(connection)

    def _serve_requests(self, connection: socket.socket, reader: RequestReader) -> None:
        while True:
            try:
                request = reader.read()
            except BadRequestError as error:
                refusal = Response(error.status, "text/plain", f"{error}\n".encode())
                connection.sendall(refusal.encode(keeps_alive=False))
                _let_read(connection)
                return
            if request is None:
                return
            try:
                response = self._answer(request, reader.is_client_there)
            except Exception:
                logger.exception("a request has no answer")
                response = Response(500, "text/plain", b"melange server failed; its log says why\n")
            keeps_alive = request.keeps_alive and not self._closing.is_set()
            if response.sent == "nothing":
                return
            answer = response.encode(keeps_alive=keeps_alive, is_head=request.method == "HEAD")
            del request  # a client that has the answer may send the next, on another connection
            reader.release()
            if response.sent == "half":
                connection.sendall(answer[: len(answer) - len(response.body) // 2])
                return
            connection.sendall(answer)
            if not keeps_alive:
                return

    def _forget(self, connection: socket.socket) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)


def _let_read(connection: socket.socket) -> None:
    """Let a client read its answer: closing a connection with bytes that were not received would reset it."""
    connection.shutdown(socket.SHUT_WR)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_LAST_WORDS_SECONDS))
    left = _LAST_WORDS_BYTES
    while left > 0 and (received := connection.recv(65_536)):
        left -= len(received)


def _timeval(seconds: float) -> bytes:
    """Return the C structure that sockets take for a timeout."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
