"""The in-memory driver under thousands of real signals, as Ctrl-C in a notebook and the time limits of tests send them."""

from __future__ import annotations

import gc
import random
import signal
import time
from collections import Counter
from types import FrameType

import pytest

from melange.drivers.base import QueueDepth
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message

INTERRUPTS = 2_000
PATIENCE_SECONDS = 60


class Interrupter:
    """Calls the driver and interrupts each call once, by a signal at a random time, only in the driver's own code.

    A call that was interrupted is repeated without a signal, as a caller does that does not know what has happened.
    """

    def __init__(self) -> None:
        self.struck = 0
        self._random = random.Random(7)

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, self._handle)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def call(self, method, *arguments, **options):
        signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.000001, 0.00006))
        try:
            return method(*arguments, **options)
        except KeyboardInterrupt:
            return method(*arguments, **options)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith(("melange.drivers.memory.", "melange.engine.")):
                self.struck += 1
                raise KeyboardInterrupt
            frame = frame.f_back


@pytest.fixture
def only_our_code():
    """Stop the garbage collector: finalizers of earlier tests would be interrupted, where nobody can catch it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("only_our_code")
@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_thousands_of_interrupts_lose_and_strand_no_message(suffix):
    driver = InMemoryDriver()
    topic = driver.declare_topic(f"topic{suffix}")
    queue = driver.declare_queue(f"queue{suffix}", topic)
    published: list[str] = []
    settled: Counter[str] = Counter()
    give_up_at = time.monotonic() + PATIENCE_SECONDS

    with Interrupter() as interrupter:
        while interrupter.struck < INTERRUPTS:
            assert time.monotonic() < give_up_at, f"only {interrupter.struck} interrupts struck"
            batch = [_message(len(published) + number, suffix) for number in range(6)]
            interrupter.call(driver.publish, topic, batch)
            published += [message.body for message in batch]
            settled.update(_receive_and_settle(interrupter.call, driver, queue))

    driver.clock.monotonic = lambda: time.monotonic() + 100  # what an interrupted receive took comes back
    while settled_now := _receive_and_settle(lambda method, *rest, **kw: method(*rest, **kw), driver, queue):
        settled.update(settled_now)
    assert set(settled) == set(published)
    assert not suffix or set(settled.values()) == {1}
    assert driver.measure_queue(queue) == QueueDepth(0, 0, 0)
    assert driver._broker.queues[queue.address].stored._in_flight == 0


def _message(number: int, suffix: str) -> Message:
    text = str(number)
    if not suffix:
        return Message(f"id-{text}", text)
    return Message(f"id-{text}", text, message_group_id=f"group-{number % 50}", message_deduplication_id=text)


def _receive_and_settle(call, driver, queue) -> list[str]:
    """Give two of ten back and acknowledge the others."""
    deliveries = call(driver.receive, queue, 10, 0, visibility_timeout_seconds=1)
    call(driver.defer, deliveries[8:], 0)
    call(driver.acknowledge, deliveries[:8])
    return [delivery.message.body for delivery in deliveries[:8]]
