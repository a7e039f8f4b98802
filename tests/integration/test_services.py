"""The local servers themselves: reachable by boto3, by us only, and never left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from services.servers import ServerError, free_port, running

TESTS = Path(__file__).parent.parent
OWNER = """
import sys, time
from services import ministack
with ministack.run() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_server_answers_boto3(sns_sqs_server: str) -> None:
    queue_url = boto3.client("sqs", endpoint_url=sns_sqs_server).create_queue(QueueName="services")[
        "QueueUrl"
    ]

    found = boto3.client("sqs", endpoint_url=sns_sqs_server).get_queue_url(QueueName="services")["QueueUrl"]

    assert found == queue_url


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists its sockets there")
def test_server_listens_on_loopback_only(sns_sqs_server: str) -> None:
    port = urlsplit(sns_sqs_server).port

    addresses = listening_addresses(port)

    assert addresses == {"127.0.0.1"}


def test_server_ends_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=TESTS)
    with owner:
        port = urlsplit(owner.stdout.readline()).port
        assert accepts_connections(port)

        owner.send_signal(signal.SIGKILL)

    assert happens_within(10, lambda: not accepts_connections(port))


def test_server_that_ends_at_once_is_reported_with_its_log() -> None:
    program = "import sys; print('no licence found', flush=True); sys.exit(3)"

    with (
        pytest.raises(ServerError, match=r"(?s)code 3.*no licence found"),
        running([sys.executable, "-c", program], environment={}, is_ready=lambda: False, start_seconds=30),
    ):
        pass


def test_server_that_never_answers_is_reported_and_ended() -> None:
    port = free_port()
    program = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('hm', flush=True); s.accept()[0].recv(1)"

    with (
        pytest.raises(ServerError, match="not ready"),
        running([sys.executable, "-c", program], environment={}, is_ready=lambda: False, start_seconds=0.5),
    ):
        pass

    assert not accepts_connections(port)


def test_server_takes_its_scratch_directory_along() -> None:
    with running(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        environment={},
        is_ready=lambda: True,
        start_seconds=30,
    ) as scratch:
        pass

    assert not scratch.exists()


def accepts_connections(port: int | None) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def happens_within(seconds: float, condition) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def listening_addresses(port: int | None) -> set[str]:
    listening = "0A"
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, local_port = local.split(":")
            if state == listening and int(local_port, 16) == port:
                family = socket.AF_INET if len(address) == 8 else socket.AF_INET6
                raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                addresses.add(socket.inet_ntop(family, raw))
    return addresses
