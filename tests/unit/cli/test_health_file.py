"""The health file is there while the worker does its work."""

import os
import time

import pytest

from melange import ExchangeMessageConsumer, QueueOptions, Worker
from melange.cli import health
from melange.cli.health import STALE_SECONDS, HealthFile, health_shown
from melange.drivers.memory import InMemoryDriver
from waiting import eventually

DEADLINE_SECONDS = 30


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(health, "TOUCH_EVERY_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "health"


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


def test_it_is_there_while_the_worker_is_ready_and_gone_afterwards(worker, path) -> None:
    with health_shown(worker, HealthFile(path)):
        existed_before = path.exists()
        worker.start()
        eventually(path.exists)

    assert not existed_before
    assert not path.exists()


def test_it_goes_when_the_worker_stops(worker, path) -> None:
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
