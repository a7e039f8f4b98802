"""Publishing with asyncio on a local SNS and SQS: calls for each message, and how long the event loop is held up."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from benchmarks import events
from benchmarks.measuring import Progress
from benchmarks.report import Count
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
        lags, rates, idle = [], [], []
        counting.calls = 0
        progress.begin("asyncio", repetitions)
        for _ in range(repetitions):
            lag, seconds = asyncio.run(_watched(publisher.publish_async, AT_ONCE))
            lags.append(lag * 1e3)
            rates.append(AT_ONCE / seconds)
            idle.append(asyncio.run(_watched(_Nothing().publish_async, AT_ONCE))[0] * 1e3)
            progress.advance()
        per_message = counting.calls / (AT_ONCE * repetitions)
    return [
        Count(f"calls for each message, {AT_ONCE} `publish_async` at once", per_message, "at most 0.15"),
        Count(
            "the longest hold-up of the event loop meanwhile, ms (median of the runs)",
            statistics.median(lags),
            "at most 20",
        ),
        Count("the same with tasks that publish nothing, ms", statistics.median(idle), ""),
        Count("messages each second", statistics.median(rates), ""),
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


async def _watched(
    publish_async: Callable[[Mapping[str, object]], Awaitable[str]], count: int
) -> tuple[float, float]:
    """Return the longest time between two turns of the event loop, and the time for all."""
    longest = 0.0
    is_done = False

    async def watch() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not is_done:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest = max(longest, now - last - 0.001)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    await asyncio.gather(*(publish_async(events.ORDER) for _ in range(count)))
    seconds = time.perf_counter() - started
    is_done = True
    await watching
    return longest, seconds
