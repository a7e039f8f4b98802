"""The server: a broker behind a port."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from melange.server.authentication import Key
from melange.server.broker import Broker
from melange.server.faults import Faults
from melange.server.gateway import Gateway
from melange.server.http import Request, Response
from melange.server.snapshots import Snapshots
from melange.server.socket_listener import SocketListener
from melange.server.storage import Storage

if TYPE_CHECKING:
    from melange.console.console import Console

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4566


class Server:
    """A local SNS and SQS. It answers from construction until ``close()``; use it as a context manager. Thread-safe.

    Args:
        broker: its state; a new one by default.
        data: a directory for everything it keeps, so that it survives restarts and kills; None keeps it in memory alone.
        host: the address to listen on. Others than those of loopback let the network in: there is no login.
        port: the port to listen on; 0 takes a free one.
        allowed_hosts: names besides those of this machine, under which clients may reach it.
        keys: the access keys that may sign requests; None accepts any, or none.
        console: False leaves out the pages for a browser.

    Raises:
        OSError: the address is taken, or not one of this machine.
        ConfigurationError: another server uses the directory, or its file is not one of a server.
    """

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        data: Path | None = None,
        host: str = DEFAULT_HOST,
        port: int = 0,
        allowed_hosts: Iterable[str] = (),
        keys: Mapping[str, Key] | None = None,
        console: bool = True,
    ) -> None:
        self.broker = broker or Broker()
        self._storage = None if data is None else Storage(data, self.broker)
        if self._storage is not None:
            self.broker.keep_in(self._storage)
        self.faults = Faults()
        self._snapshots = Snapshots(self.broker)
        self._console: Console | None = None
        self._console_lock = threading.Lock()
        gateway = Gateway(
            self.broker,
            allowed_hosts=frozenset(map(str.lower, allowed_hosts)),
            keys=keys,
            faults=self.faults,
            snapshots=self._snapshots,
            console=self._show_console if console else None,
        )
        try:
            self._listener = SocketListener(host, port, gateway.answer, self.broker.max_bytes)
        except OSError:
            if self._storage is not None:
                self._storage.close()
            raise
        self._listener.start()

    @property
    def url(self) -> str:
        """The address for ``endpoint_url``."""
        return self._listener.url

    def close(self) -> None:
        """Stop answering; waiting receives end. Idempotent."""
        self._listener.close()
        if self._console is not None:
            self._console.close()
        self.broker.close()
        if self._storage is not None:
            with self.broker.lock:
                self._storage.close()

    def _show_console(self, request: Request) -> Response:
        with self._console_lock:
            if self._console is None:
                try:
                    # Few servers are looked at, and the templates take longer to import than the server.
                    from melange.console.console import Console  # noqa: PLC0415
                    from melange.console.local import LocalBackend  # noqa: PLC0415
                except ModuleNotFoundError as error:
                    text = (
                        f"the console needs {error.name}: pip install '.[server]' in a checkout of melange\n"
                    )
                    return Response(503, "text/plain", text.encode())
                self._console = Console(LocalBackend(self.broker, self.faults, self._snapshots, self.url))
        return self._console.answer(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
