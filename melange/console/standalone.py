"""The console on a port of its own, for a broker that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from melange.console.backend import Backend
from melange.console.console import Console
from melange.server.control import CONSOLE_PREFIX
from melange.server.http import Request, Response
from melange.server.origins import refusal_of
from melange.server.socket_listener import SocketListener


class ConsoleServer:
    """Answers a browser from construction until ``close()``; use it as a context manager. Thread-safe.

    Args:
        backend: the broker that it shows.
        host: the address to listen on. Others than those of loopback let the network in: there is no login.
        port: the port to listen on; 0 takes a free one.
        allowed_hosts: names besides those of this machine, under which browsers may reach it.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """

    def __init__(
        self, backend: Backend, *, host: str = "127.0.0.1", port: int = 0, allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._console = Console(backend)
        self._allowed_hosts = frozenset(map(str.lower, allowed_hosts))
        self._listener = SocketListener(host, port, self._answer)
        self._listener.start()

    @property
    def url(self) -> str:
        """The address for the browser."""
        return self._listener.url

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._listener.close()
        self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request, is_client_there: Callable[[], bool]) -> Response:
        refusal = refusal_of(request, self._allowed_hosts)
        if refusal:
            return Response(403, "text/plain", f"{refusal}\n".encode())
        if request.target.startswith(CONSOLE_PREFIX):
            return self._console.answer(request)
        if request.target == "/" and request.method in {"GET", "HEAD"}:
            return Response(303, "text/plain", b"", {"Location": CONSOLE_PREFIX})
        return Response(404, "text/plain", b"this page does not exist\n")
