"""A worker in the main thread stops on signals, and leaves their handlers as they were."""

import os
import signal
import threading
import time

import pytest

from melange import ExchangeMessageConsumer, Worker
from melange.drivers.memory import InMemoryDriver

DEADLINE_SECONDS = 30


@pytest.fixture
def consumer():
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver, wait_seconds=0)
        consumer.listener()(print)
        yield consumer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_it_and_the_handlers_are_restored(consumer, number) -> None:
    worker = Worker(consumer, grace_seconds=10)
    before = {other: signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGINT)}
    sender = threading.Thread(target=lambda: (wait_until_ready(worker), os.kill(os.getpid(), number)))
    sender.start()

    code = worker.run()
    sender.join()

    assert code == 0
    assert {other: signal.getsignal(other) for other in before} == before


def test_handlers_are_left_alone_on_request(consumer) -> None:
    worker = Worker(consumer, grace_seconds=10, handle_signals=False)
    before, during = signal.getsignal(signal.SIGTERM), []
    stopper = threading.Thread(
        target=lambda: (
            wait_until_ready(worker),
            during.append(signal.getsignal(signal.SIGTERM)),
            worker.stop(),
        )
    )
    stopper.start()

    worker.run()
    stopper.join()

    assert during == [before]


def wait_until_ready(worker: Worker) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not worker.health().ready and time.monotonic() < deadline:
        time.sleep(0.01)
