"""The server: a broker behind a port."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from melange.server.broker import Broker
from melange.server.callers import Key
from melange.server.faults import Faults
from melange.server.gateway import Gateway
from melange.server.listener import Listener
from melange.server.storage import Storage

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
    ) -> None:
        self.broker = broker or Broker()
        self._storage = None if data is None else Storage(data, self.broker)
        if self._storage is not None:
            self.broker.keep_in(self._storage)
        self.faults = Faults()
        gateway = Gateway(
            self.broker,
            allowed_hosts=frozenset(map(str.lower, allowed_hosts)),
            keys=keys,
            faults=self.faults,
        )
        try:
            self._listener = Listener(host, port, gateway.answer)
        except OSError:
            if self._storage is not None:
                self._storage.close()
            raise
        self._listener.start()

    @property
    def url(self) -> str:
        """The address for ``endpoint_url``."""
        host = self._listener.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._listener.port}"

    def close(self) -> None:
        """Stop answering; waiting receives end. Idempotent."""
        self._listener.close()
        with self.broker.lock:
            for queue in self.broker.queues.values():
                queue.stored.ended_waits += 1
                queue.stored.waiters.wake_all()
            if self._storage is not None:
                self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
