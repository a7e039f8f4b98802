"""A worker in the main thread stops on signals, and leaves their handlers as they were."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from melange import ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions, Worker
from melange.aws_lambda import LocalEventSource, handler
from melange.drivers.memory import InMemoryDriver
from melange.signals import SAME_REQUEST_SECONDS, calling_on_signal
from melange.testing import Harness
from waiting import eventually


@pytest.fixture
def consumer():
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0)
        )
        consumer.listener()(print)
        yield consumer


@pytest.mark.parametrize("runs_on_asyncio", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_it_and_the_handlers_are_restored(consumer, number, runs_on_asyncio) -> None:
    worker = Worker(consumer, grace_seconds=10)
    before = {other: signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGINT)}
    sender = threading.Thread(
        target=lambda: (eventually(lambda: worker.health().ready), os.kill(os.getpid(), number))
    )
    sender.start()

    code = asyncio.run(worker.run_async()) if runs_on_asyncio else worker.run()
    sender.join()

    assert code == 0
    assert {other: signal.getsignal(other) for other in before} == before


def test_handlers_are_left_alone_on_request(consumer) -> None:
    worker = Worker(consumer, grace_seconds=10, handle_signals=False)
    before, during = signal.getsignal(signal.SIGTERM), []
    stopper = threading.Thread(
        target=lambda: (
            eventually(lambda: worker.health().ready),
            during.append(signal.getsignal(signal.SIGTERM)),
            worker.stop(),
        )
    )
    stopper.start()

    worker.run()
    stopper.join()

    assert during == [before]


def test_signals_close_together_are_one_request_whichever_they_are() -> None:
    calls: list[str] = []

    with calling_on_signal(lambda: calls.append("stop"), again=lambda: calls.append("again")):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert calls == ["stop"]

        time.sleep(2 * SAME_REQUEST_SECONDS)  # nothing tells that this time has passed
        signal.raise_signal(signal.SIGINT)

    assert calls == ["stop", "again"]


REPETITION = """
import signal, time
from melange.signals import SAME_REQUEST_SECONDS, calling_on_signal, end_process_on_signals

end_process_on_signals()
with calling_on_signal(lambda: print("stopped")):
    signal.raise_signal(signal.SIGTERM)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.raise_signal(number)
print("repetitions ignored", flush=True)
time.sleep(2 * SAME_REQUEST_SECONDS)
signal.raise_signal(signal.SIGTERM)
"""


def test_a_repetition_that_comes_after_the_stop_does_not_end_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", REPETITION], capture_output=True, text=True, check=False)

    assert ended.stdout == "stopped\nrepetitions ignored\n"
    assert ended.returncode == -signal.SIGTERM


@pytest.mark.parametrize("program", ["worker", "worker on asyncio", "relay"])
def test_a_signal_that_the_system_gives_to_another_thread_stops_it_too(program, tmp_path) -> None:
    # Python's handler then waits for the main thread to wake up.
    process = subprocess.Popen(
        [sys.executable, "-c", ON_ANOTHER_THREAD[program]],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()


_BLOCKED_IN_MAIN_THREAD = """
import signal, threading, time
from waiting import eventually

threading.Thread(target=threading.Event().wait, daemon=True).start()  # the system gives the signal to this one
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

def say_when_ready():
    eventually(lambda: program.health().ready)
    time.sleep(0.2)  # the main thread is in its wait by then, as well as anything can tell
    print("ready", flush=True)

threading.Thread(target=say_when_ready, daemon=True).start()
raise SystemExit(program.run())
"""

ON_ANOTHER_THREAD = {
    "worker": """
from melange import ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions, Worker
from melange.aws_lambda import LocalEventSource, handler
from melange.drivers.memory import InMemoryDriver

consumer = ExchangeMessageConsumer("stock", "products", driver=InMemoryDriver(), queue=QueueOptions(wait_seconds=0))
consumer.listener()(print)
program = Worker(consumer, grace_seconds=10)
"""
    + _BLOCKED_IN_MAIN_THREAD,
    "worker on asyncio": """
import asyncio
from melange import ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions, Worker
from melange.aws_lambda import LocalEventSource, handler
from melange.drivers.memory import InMemoryDriver

consumer = ExchangeMessageConsumer("stock", "products", driver=InMemoryDriver(), queue=QueueOptions(wait_seconds=0))
consumer.listener()(print)

class AsyncioWorker(Worker):
    def run(self):
        return asyncio.run(self.run_async())

program = AsyncioWorker(consumer, grace_seconds=10)
"""
    + _BLOCKED_IN_MAIN_THREAD,
    "relay": """
from sqlalchemy import create_engine
from melange.drivers.memory import InMemoryDriver
from melange.outbox import OutboxRelay, metadata

engine = create_engine("sqlite:///shop.db")
metadata.create_all(engine)
program = OutboxRelay(engine, InMemoryDriver())
"""
    + _BLOCKED_IN_MAIN_THREAD,
}


def test_a_local_event_source_runs_until_sigterm_and_finishes_its_batch() -> None:
    with Harness() as harness:
        consumer = ExchangeMessageConsumer("shipping")
        received = []

        @consumer.listener()
        def ship(event):
            received.append(event["number"])
            signal.raise_signal(signal.SIGTERM)

        for number in range(2):
            QueueMessagePublisher("shipping").send({"number": number}, "Paid")
        before = signal.getsignal(signal.SIGTERM)
        LocalEventSource(handler(consumer)).run()

        assert received == [0, 1]
        assert list(harness.driver.list_messages(consumer.queue)) == []
        assert signal.getsignal(signal.SIGTERM) is before
