"""The health file is there while the worker does its work, and probes over HTTP say the same."""

import json
import os
import socket
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from melange import ExchangeMessageConsumer, QueueOptions, Worker
from melange.cli import probes
from melange.cli.probes import (
    STALE_SECONDS,
    HealthFile,
    health_served,
    health_shown,
    of_one,
    of_processes,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import MelangeError
from waiting import eventually

DEADLINE_SECONDS = 30


@pytest.fixture
def worker():
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0)
        )
        consumer.listener()(print)
        worker = Worker(consumer, grace_seconds=10)
        yield worker
        worker.stop(DEADLINE_SECONDS)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "TOUCH_EVERY_SECONDS", 0.01)
    return tmp_path / "health"


def get(port: int, path: str, method: str = "GET") -> tuple[int, object]:
    request = Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urlopen(request, timeout=DEADLINE_SECONDS) as response:
            return response.status, json.loads(response.read() or "null")
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or "null")


def test_the_file_is_there_while_the_worker_is_ready_and_gone_afterwards(worker, path) -> None:
    with health_shown(worker, HealthFile(path)):
        existed_before = path.exists()
        worker.start()
        eventually(path.exists)

    assert not existed_before
    assert not path.exists()


def test_the_file_goes_when_the_worker_stops(worker, path) -> None:
    with health_shown(worker, HealthFile(path)):
        worker.start()
        eventually(path.exists)
        worker.stop(DEADLINE_SECONDS)

        eventually(lambda: not path.exists())


def test_a_file_that_a_dead_process_left_is_not_fresh(path) -> None:
    file = HealthFile(path)
    file.show(ready=True)
    was_fresh = file.is_fresh()
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(path, (long_ago, long_ago))

    assert was_fresh
    assert not file.is_fresh()


def test_a_file_that_cannot_be_written_is_logged_once(tmp_path, caplog) -> None:
    file = HealthFile(tmp_path / "nowhere" / "health")

    file.show(ready=True)
    file.show(ready=True)

    assert len(caplog.records) == 1
    assert not file.is_fresh()


def test_a_worker_is_ready_from_its_first_poll_to_its_stop(worker) -> None:
    with health_served(of_one(worker), "127.0.0.1", 0) as port:
        before = get(port, "/ready")[0]
        worker.start()
        eventually(lambda: get(port, "/ready")[0] == 200)
        worker.stop(DEADLINE_SECONDS)
        after = get(port, "/ready")[0]

    assert (before, after) == (503, 503)


def test_the_numbers_are_shown_even_when_it_is_not_ready(worker) -> None:
    with health_served(of_one(worker), "127.0.0.1", 0) as port:
        status, numbers = get(port, "/health")

    assert status == 200
    assert (numbers["ready"], numbers["queues"][0]["queue_name"]) == (False, "stock")


def test_it_is_live_before_it_is_ready(worker) -> None:
    with health_served(of_one(worker), "127.0.0.1", 0) as port:
        assert get(port, "/live") == (200, {"live": True})


def test_another_path_says_what_there_is(worker) -> None:
    with health_served(of_one(worker), "127.0.0.1", 0) as port:
        assert get(port, "/metrics") == (404, {"error": "ask for /live, /ready or /health"})


def test_a_head_request_has_no_body(worker) -> None:
    with health_served(of_one(worker), "127.0.0.1", 0) as port:
        assert get(port, "/live", "HEAD") == (200, None)


def test_a_client_that_sends_nothing_keeps_no_other_waiting(worker) -> None:
    with (
        health_served(of_one(worker), "127.0.0.1", 0) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert get(port, "/live")[0] == 200


def test_without_a_host_it_listens_on_all_addresses(worker) -> None:
    with health_served(of_one(worker), "", 0) as port:
        assert get(port, "/live")[0] == 200


def test_a_port_that_is_in_use_is_an_error_that_another_start_may_mend(worker) -> None:
    with (
        health_served(of_one(worker), "127.0.0.1", 0) as port,
        pytest.raises(MelangeError, match=rf"cannot answer probes on port {port}: .* give another"),
        health_served(of_one(worker), "127.0.0.1", port),
    ):
        pass


def test_a_group_is_ready_when_each_process_is(worker) -> None:
    with (
        health_served(of_one(worker), "127.0.0.1", 0) as first,
        health_served(of_one(worker), "127.0.0.1", 0) as second,
        health_served(of_processes("127.0.0.1", [first, second]), "127.0.0.1", 0) as group,
    ):
        before = get(group, "/ready")[0]
        worker.start()

        eventually(lambda: get(group, "/ready")[0] == 200)

    assert before == 503


def test_a_group_is_not_ready_while_a_process_does_not_answer(worker) -> None:
    worker.start()
    with (
        health_served(of_one(worker), "127.0.0.1", 0) as first,
        health_served(of_one(worker), "127.0.0.1", 0) as gone,
    ):
        pass  # closed again, so that nothing answers there

    with (
        health_served(of_one(worker), "127.0.0.1", 0) as first,
        health_served(of_processes("127.0.0.1", [first, gone]), "127.0.0.1", 0) as group,
    ):
        eventually(lambda: get(first, "/ready")[0] == 200)

        status, numbers = get(group, "/ready")

    assert status == 503
    assert numbers["processes"][1] is None
