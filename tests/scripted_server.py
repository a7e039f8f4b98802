"""A server that answers each request with the bytes that a test wrote down, over plain TCP or TLS."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return an answer with its length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def sqs(status: str = "200 OK", **fields: object) -> bytes:
    """Return an answer of SQS."""
    return http(json.dumps(fields).encode(), status=status)


EMPTY = sqs()
"""The answer to a receive of an empty queue."""

PUBLISHED = http(
    b"<PublishBatchResponse xmlns='http://sns.amazonaws.com/doc/2010-03-31/'><PublishBatchResult>"
    b"<Successful><member><Id>0</Id><MessageId>m</MessageId></member></Successful>"
    b"</PublishBatchResult></PublishBatchResponse>"
)
"""The answer to one message that was published."""


@dataclass(frozen=True)
class Request:
    """A request as it arrived; ``connection`` is the number of the connection."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class ScriptedServer:
    """Gives one answer after the other, and the last one for ever.

    An empty answer closes the connection; so does one that ends with ``CLOSE``. One that ends
    with ``DRIP`` goes on, byte by byte.
    """

    answers: list[bytes]
    tls: ssl.SSLContext | None = None
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def close_connections(self) -> None:
        """Close what is connected now, as a server does with idle connections."""
        with self._lock:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError), connection:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self.connections.append(connection)
            with connection, connection.makefile("rb") as stream:
                while request := _read(stream, number):
                    with self._lock:
                        self.requests.append(request)
                        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    connection.sendall(answer.removesuffix(CLOSE).removesuffix(DRIP))
                    while answer.endswith(DRIP):
                        connection.sendall(b"x")
                        time.sleep(0.05)
                    if not answer or answer.endswith(CLOSE):
                        return


CLOSE, DRIP = b"<close>", b"<drip>"


def _read(stream, number: int) -> Request | None:
    line = stream.readline().decode().strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while text := stream.readline().decode().strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line, headers, stream.read(int(headers.get("content-length", 0))), number)


@contextmanager
def scripted_server(
    *answers: bytes, tls: ssl.SSLContext | None = None, is_ipv6: bool = False
) -> Iterator[ScriptedServer]:
    """Run the server; its ``url`` says where."""
    server = ScriptedServer(list(answers), tls)
    address, family = ("::1", socket.AF_INET6) if is_ipv6 else ("127.0.0.1", socket.AF_INET)
    with socket.create_server((address, 0), family=family, backlog=64) as listener:
        host = "[::1]" if is_ipv6 else "localhost"
        server.url = f"{'https' if tls else 'http'}://{host}:{listener.getsockname()[1]}"

        def accept() -> None:
            number = 0
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=server._serve, args=(connection, number), daemon=True).start()
                    number += 1

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        server.close_connections()
        thread.join(10)
