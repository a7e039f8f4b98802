"""Our own server, as its users start it. The default."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.servers import answers_http, free_port, running


@contextmanager
def run(port: int | None = None, *options: str) -> Iterator[str]:
    """Start ``melange server`` on a loopback port, a free one by default, and yield its URL."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [
            sys.executable,
            "-m",
            "melange.cli",
            "server",
            "--port",
            str(port),
            "--log-level",
            "warning",
            *options,
        ],
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
        is_ready=lambda: answers_http(url),
        start_seconds=30,
    ):
        yield url
