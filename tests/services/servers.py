"""Starting a server, waiting until it answers, and stopping it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

SUPERVISOR = Path(__file__).with_name("supervisor.py")
PORTS = range(12_000, 32_000)
POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 20_000
STOP = b"stop"


class ServerError(Exception):
    """A server did not come up; the text holds the end of its log."""


def free_port(*, second_above: int = 0) -> int:
    """Return a loopback port that nobody listens on, nor on the one ``second_above`` it.

    Both are below those that systems give to connections, of which one could take it while our server restarts.
    """
    ports = [port for port in _ports_of_this_process() if port + second_above in PORTS]
    while True:
        port = secrets.choice(ports)
        if _is_free(port) and (not second_above or _is_free(port + second_above)):
            return port


def _ports_of_this_process() -> range:
    """Return those of ``PORTS`` that no other process of pytest-xdist takes between our look and our server's start."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return PORTS[number % count :: count]


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers_http(url: str) -> bool:
    """Tell whether an HTTP server answers at ``url``, whatever the answer is."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    is_ready: Callable[[], bool],
    start_seconds: float,
    directory: Path | None = None,
    user: str | None = None,
) -> Iterator[Path]:
    """Run ``command``, as ``user`` if one is given, until the block ends or this process does, even by SIGKILL.

    The block begins when ``is_ready`` says so. The server's directory is yielded: it is its working
    directory and ``TMPDIR``, and vanishes with it. One that the caller gives outlives the block, though not
    this process. ``environment`` is added to ``PATH`` and ``HOME``; nothing else of ours is passed on.

    Raises:
        ServerError: the server ended, or was not ready after ``start_seconds``.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        directory = directory or stack.enter_context(server_directory())
        supervisor = subprocess.Popen(
            [sys.executable, SUPERVISOR, str(os.getpid()), directory, user or "", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(directory),
                "TMPDIR": str(directory),
                **environment,
            },
            # So that Ctrl-C, or a kill of our process group, leaves the supervisor to do its work.
            start_new_session=True,
        )
        try:
            _wait_until_ready(supervisor, is_ready, start_seconds, log)
            yield directory
        finally:
            supervisor.communicate(STOP)


@contextmanager
def server_directory() -> Iterator[Path]:
    """Yield an empty directory and remove it with all that is in it."""
    # What ends with a server may be half gone already.
    with tempfile.TemporaryDirectory(prefix="melange-server-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def _wait_until_ready(
    supervisor: subprocess.Popen[bytes], is_ready: Callable[[], bool], start_seconds: float, log: IO[bytes]
) -> None:
    deadline = time.monotonic() + start_seconds
    while True:
        ready = is_ready()
        # Asked second: another's server on our port may answer while ours fails to bind it.
        if supervisor.poll() is not None:
            raise ServerError(f"the server ended with code {supervisor.returncode}\n{_tail(log)}")
        if ready:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"the server was not ready after {start_seconds:g} s\n{_tail(log)}")
        time.sleep(POLL_SECONDS)


def _tail(log: IO[bytes]) -> str:
    # The server writes at the offset that it shares with us: read without moving it.
    size = os.fstat(log.fileno()).st_size
    tail = os.pread(log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
    return tail.decode(errors="replace")
