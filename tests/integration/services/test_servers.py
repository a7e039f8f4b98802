"""Starting and ending local servers: none is left behind, and none fails without a word."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services import servers
from services.servers import ServerError, free_port, running

TESTS = Path(__file__).parent.parent.parent
OWNER = """
import sys, time
from services.servers import answers_http, free_port, running
port = free_port()
command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
is_ready = lambda: answers_http(f"http://127.0.0.1:{port}")
with running(command, environment={}, is_ready=is_ready, start_seconds=30):
    print(port, flush=True)
    time.sleep(600)
"""


def test_server_ends_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=TESTS)
    with owner:
        port = int(owner.stdout.readline())
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


def test_server_that_is_never_ready_is_reported() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]

    with (
        pytest.raises(ServerError, match="not ready"),
        running(command, environment={}, is_ready=lambda: False, start_seconds=0.5),
    ):
        pass


def test_server_ends_with_its_block_and_takes_its_directory_along() -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    with running(
        command, environment={}, is_ready=lambda: accepts_connections(port), start_seconds=30
    ) as directory:
        existed_meanwhile = directory.exists()

    assert existed_meanwhile
    assert not directory.exists()
    assert not accepts_connections(port)


def test_a_port_is_free_together_with_the_second_one_that_its_server_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = free_port(second_above=1_000)
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + 1_000))
        monkeypatch.setattr(servers, "PORTS", range(first, first + 1_005))  # five to choose from
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1")

        chosen = {free_port(second_above=1_000) for _ in range(50)}

    assert first not in chosen


def test_processes_that_run_tests_side_by_side_choose_different_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "PORTS", range(12_000, 12_020))
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    chosen = []

    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        chosen.append({free_port() for _ in range(50)})

    assert chosen[0].isdisjoint(chosen[1])


def accepts_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def happens_within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
