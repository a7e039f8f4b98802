"""How many messages a worker gets through, in memory; and its API calls on SNS+SQS."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable

import boto3

from benchmarks import events
from benchmarks.measuring import (
    Contender,
    Cost,
    Count,
    Progress,
    Row,
    consume_all,
    cost_per_item,
    cpu_of,
    interleaved,
    wall_of,
)
from benchmarks.sns_sqs import session
from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    QueueOptions,
    Worker,
)
from melange.drivers.aws import AwsDriver
from melange.drivers.base import MessagingDriver
from melange.drivers.memory import InMemoryDriver

QUICK_MESSAGES = 5_000
WAITING_MESSAGES = 3_200
WAIT_SECONDS = 0.02
CALLS_MESSAGES = 2_000


def rows(repetitions: int, progress: Progress) -> tuple[list[Row], list[Count]]:
    """Compare the CPU time of workers with that of a ``consume_event`` loop, and wall time with the ideal of waiting.

    Count how often threads wait for each message, too.
    """
    quick = interleaved(
        "worker, listener that does nothing",
        {
            "loop": looping(),
            **{
                f"concurrency {concurrency}": working(concurrency, QUICK_MESSAGES, do_nothing)
                for concurrency in (1, 8, 32)
            },
        },
        repetitions,
        progress,
    )
    waiting = interleaved(
        "worker, listener that waits",
        {
            "plain": working(32, WAITING_MESSAGES, wait),
            "asynchronous": working(32, WAITING_MESSAGES, wait_asynchronously),
            "asyncio alone": waiting_on_asyncio,
        },
        max(3, repetitions // 5),
        progress,
    )
    counted = [
        Count(
            f"waits of threads per message, worker, {name}", statistics.median(one.switches for one in costs)
        )
        for name, costs in {**quick, **waiting}.items()
    ]
    loop = cpu_of(quick.pop("loop"))
    found = [
        Row(
            f"worker, {name}, listener does nothing",
            cpu_of(costs),
            "`consume_event` loop",
            loop,
            "at most 1.5",
        )
        for name, costs in quick.items()
    ]
    alone = wall_of(waiting.pop("asyncio alone"))
    for name, costs in waiting.items():
        ours, ideal = wall_of(costs), [WAIT_SECONDS / 32] * len(costs)
        work = f"worker, concurrency 32, {name} listener waits 20 ms, wall time"
        found.append(Row(work, ours, "20 ms / 32", ideal, "at most 1.05"))
    ours = wall_of(waiting["asynchronous"])
    found.append(Row("the same, asynchronous, wall time", ours, "32 coroutines, nothing else", alone))
    return found, counted


def counts(endpoint_url: str) -> list[Count]:
    """Count the API calls of a worker per message, from a full standard queue."""
    found = []
    for concurrency in (1, 16, 32):
        calls: Counter[str] = Counter()
        counting = session()
        counting.events.register("before-call", lambda model, calls=calls, **_: calls.update([model.name]))
        messages = CALLS_MESSAGES if concurrency > 1 else CALLS_MESSAGES // 10
        _consume_over_sqs(counting, endpoint_url, concurrency, messages)
        relevant = (
            calls["ReceiveMessage"] + calls["DeleteMessageBatch"] + calls["ChangeMessageVisibilityBatch"]
        )
        aim = "at most 0.25" if concurrency >= 16 else ""
        found.append(
            Count(
                f"API calls of a worker per message consumed, concurrency {concurrency}",
                relevant / messages,
                aim,
            )
        )
    return found


def looping() -> Contender:
    """Consume with a plain loop."""
    _, consumer, publish = _application(QUICK_MESSAGES, do_nothing)

    def run() -> Cost:
        publish()
        with cost_per_item(QUICK_MESSAGES) as cost:
            consume_all(consumer, QUICK_MESSAGES)
        return cost

    return run


def working(concurrency: int, messages: int, listener: Callable[[object], object]) -> Contender:
    """Consume with a worker, from its start until its last acknowledgement."""

    def run() -> Cost:
        driver, consumer, publish = _application(messages, listener)
        publish()
        worker = Worker(consumer, concurrency=concurrency)
        with cost_per_item(messages) as cost:
            worker.start()
            _await_empty(driver, consumer)
        driver.close()  # ends the open poll
        worker.stop()
        return cost

    return run


def do_nothing(event: object) -> None:
    """Be done at once."""


def wait(event: object) -> None:
    """Wait as for an answer, on the thread."""
    time.sleep(WAIT_SECONDS)


async def wait_asynchronously(event: object) -> None:
    """Wait as for an answer, on the event loop."""
    await asyncio.sleep(WAIT_SECONDS)


def waiting_on_asyncio() -> Cost:
    """Wait as often, with as many coroutines at once and nothing else: what asyncio itself reaches here."""

    async def wait_for_all() -> None:
        at_once = asyncio.Semaphore(32)

        async def wait_for_one() -> None:
            async with at_once:
                await asyncio.sleep(WAIT_SECONDS)

        await asyncio.gather(*(wait_for_one() for _ in range(WAITING_MESSAGES)))

    with cost_per_item(WAITING_MESSAGES) as cost:
        asyncio.run(wait_for_all())
    return cost


def _application(
    messages: int, listener: Callable[[object], object]
) -> tuple[InMemoryDriver, ExchangeMessageConsumer, Callable[[], object]]:
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "orders",
        "shop",
        driver=driver,
        deduplication=MemoryDeduplicationStore(),
        queue=QueueOptions(wait_seconds=1),
    )
    consumer.listener()(listener)
    publisher = ExchangeMessagePublisher("shop", driver)
    return driver, consumer, lambda: publisher.publish_batch([events.ORDER] * messages)


def _await_empty(driver: InMemoryDriver, consumer: ExchangeMessageConsumer) -> None:
    # Half the time a look costs at the end is the error of the measurement: few looks, short pauses.
    while True:
        depth = driver.measure_queue(consumer.queue)
        if not depth.visible and not depth.in_flight:
            return
        threading.Event().wait(0.01)


def _consume_over_sqs(of: boto3.Session, endpoint_url: str, concurrency: int, messages: int) -> None:
    name = f"benchmark-worker-{concurrency}"
    driver: MessagingDriver = AwsDriver(session=of, endpoint_url=endpoint_url)
    consumer = ExchangeMessageConsumer(
        name,
        name,
        driver=driver,
        deduplication=MemoryDeduplicationStore(),
        queue=QueueOptions(wait_seconds=1),
    )
    done = threading.Semaphore(0)
    consumer.listener(name="done")(lambda event: done.release())
    ExchangeMessagePublisher(name, driver).publish_batch([events.ORDER] * messages)
    worker = Worker(consumer, concurrency=concurrency)
    worker.start()
    for _ in range(messages):
        done.acquire()
    worker.stop()
    driver.close()
