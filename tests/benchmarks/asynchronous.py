"""Publishing with asyncio on a local SNS and SQS: calls for each message, and how long the event loop is held up."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks import events
from benchmarks.measuring import Count, Progress
from benchmarks.sns_sqs import session
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.aws import AwsDriver
from melange.drivers.base import MessagingDriver
from melange.errors import Failure
from melange.messages import Message, Topic

AT_ONCE = 500


def counts(endpoint_url: str, repetitions: int, progress: Progress) -> list[Count]:
    """Publish 500 events at once on one event loop, several times."""
    with AwsDriver(session=session(), endpoint_url=endpoint_url) as driver:
        ExchangeMessageConsumer("benchmark-async", "benchmark-async", driver=driver)
        counting = _Counting(driver)
        publisher = ExchangeMessagePublisher("benchmark-async", driver)
        driver.publish = counting.publish  # type: ignore[method-assign]
        asyncio.run(_watched(publisher.publish_async, AT_ONCE))  # warms up
        lags, turns, rates, idle, idle_turns = [], [], [], [], []
        counting.calls = 0
        progress.begin("asyncio", repetitions)
        for _ in range(repetitions):
            seen = asyncio.run(_watched(publisher.publish_async, AT_ONCE))
            lags.append(seen.lag_seconds * 1e3)
            turns.append(seen.turn_seconds * 1e3)
            rates.append(AT_ONCE / seen.seconds)
            nothing = asyncio.run(_watched(_Nothing().publish_async, AT_ONCE))
            idle.append(nothing.lag_seconds * 1e3)
            idle_turns.append(nothing.turn_seconds * 1e3)
            progress.advance()
        per_message = counting.calls / (AT_ONCE * repetitions)
    return [
        Count(f"calls for each message, {AT_ONCE} `publish_async` at once", per_message, "at most 0.15"),
        Count(
            "the longest hold-up of the event loop meanwhile, ms (median of the runs)",
            statistics.median(lags),
            "at most 20",
        ),
        Count("the same with tasks that publish nothing, ms", statistics.median(idle)),
        Count("CPU time of the event loop's longest turn, ms", statistics.median(turns), "at most 20"),
        Count("the same with tasks that publish nothing, ms", statistics.median(idle_turns)),
        Count("messages each second", statistics.median(rates)),
    ]


class _Counting:
    """Counts the network calls of a driver: one for each ten messages."""

    def __init__(self, driver: MessagingDriver) -> None:
        self._publish = driver.publish
        self.calls = 0

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        self.calls += -(-len(messages) // 10)
        return self._publish(topic, messages)


class _Nothing:
    """Stands for a publisher that costs nothing: what is left is the work of the tasks themselves, and the machine."""

    async def publish_async(self, event: object) -> str:
        await asyncio.sleep(0.05)
        return ""


class _Seen(NamedTuple):
    """What was seen of an event loop.

    ``lag_seconds`` is the longest time between two turns, which depends on the machine's other work. ``turn_seconds`` is
    the most CPU time of the loop's thread in one turn, which does not.
    """

    lag_seconds: float
    turn_seconds: float
    seconds: float


async def _watched(publish_async: Callable[[Mapping[str, object]], Awaitable[str]], count: int) -> _Seen:
    """Publish ``count`` events at once, and watch the loop."""
    lag = turn = 0.0
    is_done = False

    async def watch() -> None:
        nonlocal lag, turn
        last, last_of_cpu = time.perf_counter(), time.thread_time()
        while not is_done:
            await asyncio.sleep(0.001)
            now, of_cpu = time.perf_counter(), time.thread_time()
            lag = max(lag, now - last - 0.001)
            turn = max(turn, of_cpu - last_of_cpu)
            last, last_of_cpu = now, of_cpu

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    await asyncio.gather(*(publish_async(events.ORDER) for _ in range(count)))
    seconds = time.perf_counter() - started
    is_done = True
    await watching
    return _Seen(lag, turn, seconds)
