"""MiniStack: SNS and SQS in one light process, written by others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.environments import environment_with
from services.servers import answers_http, free_port, running

REQUIREMENTS = Path(__file__).with_suffix(".txt")


@contextmanager
def run(port: int | None = None, *, services: str = "sns,sqs") -> Iterator[str]:
    """Start MiniStack on a loopback port, a free one by default, and yield its URL; it is up in about a second."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [environment_with(REQUIREMENTS) / "ministack"],
        environment={
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": services,
            "LOG_LEVEL": "WARNING",
        },
        is_ready=lambda: answers_http(f"{url}/_ministack/health"),
        start_seconds=30,
    ):
        yield url
