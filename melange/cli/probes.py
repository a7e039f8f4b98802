"""Liveness and readiness probes of a worker or relay: a file that exists while it is ready, and a port that answers over HTTP."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen

from melange.errors import MelangeError

logger = logging.getLogger(__name__)

TOUCH_EVERY_SECONDS = 1.0
STALE_SECONDS = 10.0

SLOWEST_CLIENT_SECONDS = 5.0
"""The limit for a client to send its request, and for a process of a group to answer."""

ReadHealth = Callable[[], tuple[bool, object]]
"""Returns True if all is ready, and what ``/health`` shows."""


class Health(Protocol):
    """Of a worker or a relay."""

    @property
    def ready(self) -> bool:
        """True while it does its work."""
        ...


class HasHealth(Protocol):
    """A worker or a relay."""

    def health(self) -> Health:
        """Return its current health."""
        ...


class HealthFile:
    """A file that exists and is touched every second while a worker or relay is ready.

    A process that is killed or hangs leaves it behind, so a probe checks its age too. The file is empty, so
    that no reader can see half of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def of_process(self, number: int) -> HealthFile:
        """Return the file of one of several processes, beside this one."""
        return HealthFile(self._path.with_name(f"{self._path.name}.{number}"))

    def show(self, ready: bool) -> None:
        """Touch the file when ready, remove it when not; a file that can't be written is logged once."""
        try:
            if ready:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.error("the health file can't be kept: %s", error)
            self._failed = True

    def is_fresh(self) -> bool:
        """Return True if the file was touched in the last few seconds."""
        try:
            return time.time() - self._path.stat().st_mtime < STALE_SECONDS
        except OSError:
            return False


@contextmanager
def health_shown(of: HasHealth, file: HealthFile | None) -> Iterator[None]:
    """Keep ``file`` up to date inside the block, and remove it afterwards."""
    if file is None:
        yield
        return
    stopped = threading.Event()

    def keep_showing() -> None:
        while not stopped.is_set():
            file.show(of.health().ready)
            stopped.wait(TOUCH_EVERY_SECONDS)

    thread = threading.Thread(target=keep_showing, name="melange-health-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        file.show(ready=False)


def of_one(source: HasHealth) -> ReadHealth:
    """Return what reads the health of a worker or relay in this process."""

    def read() -> tuple[bool, object]:
        health = source.health()
        return health.ready, health

    return read


def of_processes(host: str, ports: Sequence[int]) -> ReadHealth:
    """Return what asks each process of a group on its own port."""
    # Without a host they listen on all addresses, this one included.
    sources = [f"http://{host or '127.0.0.1'}:{port}/health" for port in ports]

    def read() -> tuple[bool, object]:
        answers = [_answer(source) for source in sources]
        ready = all(answer is not None and answer.get("ready") is True for answer in answers)
        return ready, {"ready": ready, "processes": answers}

    return read


@contextmanager
def health_served(read: ReadHealth, host: str, port: int) -> Iterator[int]:
    """Answer probes inside the block, on threads of its own; yield the port, which is a free one for port 0.

    ``/live`` is 200 while the process answers. ``/ready`` is 200 or 503. ``/health`` is always 200, with the numbers as
    JSON. An empty host means all addresses, of IPv4 and IPv6.

    Raises:
        MelangeError: the port cannot be opened. Another process may hold it, and give it up later.
    """
    try:
        server = _Server(read, host, port)
    except (OSError, OverflowError) as error:
        raise MelangeError(
            f"cannot answer probes on port {port}: {error}. Stop what uses the port, or give another --health-port"
        ) from error
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="melange-health-port", daemon=True
    ).start()
    try:
        yield server.port
    finally:
        server.shutdown()
        server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, read: ReadHealth, host: str, port: int) -> None:
        super().__init__((host, port), _Probe, bind_and_activate=False)
        self.socket.close()
        if not host and socket.has_dualstack_ipv6():
            self.socket = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self.socket = socket.create_server((host, port))
        self.read = read
        self.port: int = self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log it without a traceback: usually the client has gone."""
        logger.debug("a probe was not answered: %r", sys.exception())


class _Probe(BaseHTTPRequestHandler):
    server: _Server
    timeout = SLOWEST_CLIENT_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/live":
            self._respond(HTTPStatus.OK, {"live": True})
        elif path in {"/ready", "/health"}:
            ready, health = self.server.read()
            status = HTTPStatus.OK if ready or path == "/health" else HTTPStatus.SERVICE_UNAVAILABLE
            self._respond(status, health)
        else:
            self._respond(HTTPStatus.NOT_FOUND, {"error": "ask for /live, /ready or /health"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Write nothing: a probe comes every few seconds."""

    def _respond(self, status: HTTPStatus, content: object) -> None:
        body = json.dumps(content, default=_plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _plain(value: Any) -> object:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _answer(source: str) -> dict[str, Any] | None:
    try:
        with urlopen(source, timeout=SLOWEST_CLIENT_SECONDS) as response:  # noqa: S310 - an address of ours
            found = json.load(response)
    except (OSError, HTTPException, ValueError):  # it has not begun, or has ended
        return None
    return found if isinstance(found, dict) else None
