"""A way to a server that has TLS, or loses answers, where the server itself can't be told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

CHUNK_BYTES = 65_536


class Forwarder(ThreadingTCPServer):
    """Forwards what connects to ``port`` to another loopback port."""

    def __init__(self, upstream_port: int, tls: ssl.SSLContext | None) -> None:
        self.upstream_port = upstream_port
        self.open: set[socket.socket] = set()
        self.losing = threading.Event()
        self._tls = tls
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port: int = self.server_address[1]

    def lose_next_answer(self) -> None:
        """Close the next connection that is answered, instead of passing the answer on."""
        self.losing.set()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; one that does not get its TLS right is dropped, as an OSError always is."""
        connection, address = self.socket.accept()
        if self._tls is None:
            return connection, address
        return self._tls.wrap_socket(connection, server_side=True), address

    def server_close(self) -> None:
        """Close what listens and what is still connected, and wait until all of it has ended."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Connection(BaseRequestHandler):
    server: Forwarder
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.upstream_port)) as upstream:
            self.server.open |= {self.request, upstream}
            asking = threading.Thread(target=self._copy, args=(self.request, upstream))
            asking.start()
            self._copy(upstream, self.request, answers=True)
            asking.join()
            self.server.open -= {self.request, upstream}

    def _copy(self, source: socket.socket, target: socket.socket, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if answers and self.server.losing.is_set():
                    self.server.losing.clear()
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarding(upstream_port: int, tls: ssl.SSLContext | None = None) -> Iterator[Forwarder]:
    """Forward to a server on this machine, with TLS towards the client when there is a context for it."""
    with Forwarder(upstream_port, tls) as forwarder:
        thread = threading.Thread(target=forwarder.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield forwarder
        finally:
            forwarder.shutdown()
            thread.join()
