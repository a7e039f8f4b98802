"""LocalStack in host mode: stricter than MiniStack, and slower to install and start."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.environments import environment_with
from services.servers import free_port, running

REQUIREMENTS = Path(__file__).with_suffix(".txt")

# LocalStack drops the host of GATEWAY_LISTEN and listens on every address, unless it is told here.
LAUNCHER = """
import functools
from twisted.internet import endpoints
endpoints.TCP4ServerEndpoint = functools.partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")
from localstack.runtime.main import main
main()
"""


@contextmanager
def run() -> Iterator[str]:
    """Start LocalStack's SNS and SQS on a free loopback port and yield its URL; takes several seconds."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [environment_with(REQUIREMENTS) / "python", "-c", LAUNCHER],
        environment={
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "SERVICES": "sns,sqs",
            "EAGER_SERVICE_LOADING": "1",
            "LS_LOG": "error",
            # Its files belong into its own directory, not into the environment that all runs share.
            "FILESYSTEM_ROOT": ".",
            # Nothing is asked of the network, and no name server is started.
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
        },
        is_ready=lambda: _has_started(url),
        start_seconds=90,
    ):
        yield url


def _has_started(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localstack/init/ready", timeout=5) as answer:
            return bool(json.load(answer)["completed"])
    except OSError:
        return False
