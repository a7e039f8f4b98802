"""Consuming inside of a running event loop: polls, workers, and the life of an application."""

import asyncio
import threading

import pytest
import trio
from fastapi import FastAPI
from fastapi.testclient import TestClient

from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    Middleware,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}
DEADLINE_SECONDS = 30


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def consumer(driver):
    return ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        queue=QueueOptions(wait_seconds=1),
        retry=RetryPolicy(backoff=lambda attempts: 0),
    )


def depth_of(driver):
    depth = driver.measure_queue(driver.get_queue("stock"))
    return depth.visible, depth.in_flight


# --- one poll ------------------------------------------------------------------------------------


def test_a_poll_runs_asynchronous_listeners_on_the_loop_that_awaits_it(driver, consumer, publisher):
    seen = []

    @consumer.listener(name="asynchronous")
    async def see(event):
        await asyncio.sleep(0)
        seen.append((asyncio.get_running_loop(), threading.current_thread()))

    @consumer.listener(name="plain")
    def see_too(event):
        seen.append(threading.current_thread())

    async def scenario():
        await publisher.publish_async(EVENT)
        assert await consumer.consume_event_async() == 1
        return asyncio.get_running_loop()

    loop = asyncio.run(scenario())

    (of_asynchronous, thread), of_plain = seen
    assert of_asynchronous is loop
    assert thread is threading.main_thread()
    assert of_plain is not threading.main_thread()
    assert depth_of(driver) == (0, 0)


def test_an_empty_poll_returns_0_and_the_loop_goes_on_meanwhile(consumer):
    consumer.listener(name="see")(lambda event: None)

    async def scenario():
        polling = asyncio.create_task(consumer.consume_event_async())
        turns = 0
        while not polling.done():
            await asyncio.sleep(0.001)
            turns += 1
        return polling.result(), turns

    settled, turns = asyncio.run(scenario())

    assert settled == 0
    assert turns > 10


def test_a_cancelled_poll_loses_nothing(driver, publisher):
    consumer = ExchangeMessageConsumer(
        "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=20)
    )
    seen = []
    consumer.listener(name="see")(seen.append)

    async def scenario():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.consume_event_async(), 0.2)
        await publisher.publish_async(EVENT)
        while not await consumer.consume_event_async(wait_seconds=1):
            pass

    asyncio.run(scenario())

    assert seen == [EVENT]


def test_a_cancelled_poll_cancels_its_listener_which_is_tried_again(driver, consumer, publisher):
    attempts, cancelled = [], []

    @consumer.listener(name="see")
    async def see(event, attempt):
        attempts.append(attempt)
        if attempt == 1:
            try:
                await asyncio.sleep(DEADLINE_SECONDS)
            except asyncio.CancelledError:
                cancelled.append(attempt)
                raise

    async def scenario():
        await publisher.publish_async(EVENT)
        polling = asyncio.create_task(consumer.consume_event_async())
        await asyncio.to_thread(lambda: eventually(lambda: attempts))
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        while not await consumer.consume_event_async():
            pass

    asyncio.run(scenario())

    assert (attempts, cancelled) == ([1, 2], [1])
    assert depth_of(driver) == (0, 0)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_has_not_begun_when_a_poll_is_cancelled_uses_no_attempt(driver, consumer, publisher, is_async):
    runs: list[tuple[int, int]] = []
    begun, go_on = threading.Event(), threading.Event()

    if is_async:

        @consumer.listener(name="see")
        async def see_soon(event, attempt):
            runs.append((event["number"], attempt))
            begun.set()
            if not go_on.is_set():
                await asyncio.sleep(DEADLINE_SECONDS)
    else:

        @consumer.listener(name="see")
        def see(event, attempt):
            runs.append((event["number"], attempt))
            begun.set()
            go_on.wait(DEADLINE_SECONDS)

    async def scenario():
        await publisher.publish_batch_async([{**EVENT, "number": number} for number in range(3)])
        polling = asyncio.create_task(consumer.consume_event_async())
        await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        go_on.set()
        await asyncio.to_thread(lambda: eventually(lambda: driver.measure_queue(consumer.queue).visible >= 2))
        while depth_of(driver) != (0, 0):
            await consumer.consume_event_async(wait_seconds=1)

    asyncio.run(scenario())

    assert [run for run in runs if run[0] > 0] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("is_async", [False, True])
def test_no_other_listener_of_a_message_begins_when_a_poll_is_cancelled(
    driver, consumer, publisher, is_async
):
    begun, seen = threading.Event(), []

    @consumer.listener(name="first")
    async def hang_at_first(event, attempt):
        begun.set()
        if attempt == 1:
            await asyncio.sleep(DEADLINE_SECONDS)

    def second(event, attempt):
        seen.append(attempt)

    async def second_async(event, attempt):
        seen.append(attempt)

    consumer.listener(name="second")(second_async if is_async else second)

    async def scenario():
        await publisher.publish_async(EVENT)
        polling = asyncio.create_task(consumer.consume_event_async())
        await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        await asyncio.to_thread(lambda: eventually(lambda: driver.measure_queue(consumer.queue).visible))
        seen_by_then = list(seen)
        while depth_of(driver) != (0, 0):
            await consumer.consume_event_async(wait_seconds=1)
        return seen_by_then

    seen_by_then = asyncio.run(scenario())

    assert (seen_by_then, seen) == ([], [1])


def test_a_poll_without_a_listener_is_an_error(consumer):
    with pytest.raises(ConfigurationError, match="nothing listens"):
        asyncio.run(consumer.consume_event_async())


@pytest.mark.parametrize("method", ["consume_event_async", "run_async"])
def test_on_trio_there_is_an_error_with_advice(consumer, method):
    consumer.listener(name="see")(lambda event: None)
    one = consumer if method == "consume_event_async" else Worker(consumer)

    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(getattr(one, method))


# --- workers ---------------------------------------------------------------------------------------


def test_a_worker_runs_asynchronous_listeners_on_the_loop_that_awaits_it(consumer, publisher):
    loops = []
    worker = Worker(consumer, grace_seconds=10)

    @consumer.listener(name="asynchronous")
    async def see(event):
        loops.append(asyncio.get_running_loop())

    async def scenario():
        working = asyncio.create_task(worker.run_async())
        await publisher.publish_async(EVENT)
        await asyncio.to_thread(lambda: eventually(lambda: loops))
        assert worker.stop() is False  # it must not block the loop that its listeners need
        return await working, asyncio.get_running_loop()

    exit_code, loop = asyncio.run(scenario())

    assert (exit_code, loops) == (0, [loop])
    assert worker.has_ended


def test_a_listener_at_work_finishes_within_the_grace_period(driver, consumer, publisher):
    begun, finished = threading.Event(), []
    worker = Worker(consumer, grace_seconds=10)

    @consumer.listener(name="asynchronous")
    async def see(event):
        begun.set()
        await asyncio.sleep(0.3)
        finished.append(event)

    async def scenario():
        async with worker.lifespan():
            await publisher.publish_async(EVENT)
            await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)

    asyncio.run(scenario())

    assert finished == [EVENT]
    assert depth_of(driver) == (0, 0)


@pytest.mark.parametrize("with_a_hook", [False, True])
def test_after_the_grace_period_listeners_are_cancelled_and_their_messages_released(
    driver, consumer, publisher, with_a_hook
):
    begun, cancelled = threading.Event(), []
    if with_a_hook:  # then a thread waits for the coroutine
        consumer.processor.waits = True
    worker = Worker(consumer, grace_seconds=1)

    @consumer.listener(name="asynchronous")
    async def see(event):
        begun.set()
        try:
            await asyncio.sleep(DEADLINE_SECONDS)
        except asyncio.CancelledError:
            cancelled.append(event)
            raise

    async def scenario():
        async with worker.lifespan():
            await publisher.publish_async(EVENT)
            await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        return asyncio.all_tasks() - {asyncio.current_task()}

    left = asyncio.run(scenario())

    assert cancelled == [EVENT]
    assert left == set()
    assert depth_of(driver) == (1, 0)


def test_cancelling_a_worker_stops_it(consumer):
    worker = Worker(consumer, grace_seconds=10)
    consumer.listener(name="see")(lambda event: None)

    async def scenario():
        working = asyncio.create_task(worker.run_async())
        await asyncio.to_thread(lambda: eventually(lambda: worker.has_started))
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())

    assert worker.is_stopping
    eventually(lambda: worker.has_ended)


def test_an_application_works_while_it_lives(consumer, publisher):
    seen = []

    @consumer.listener(name="see")
    async def see(event):
        seen.append(event["number"])

    worker = Worker(consumer, grace_seconds=10)
    app = FastAPI(lifespan=worker.lifespan)

    @app.post("/products/{number}")
    async def add(number: int) -> dict[str, str]:
        return {"id": await publisher.publish_async({**EVENT, "number": number})}

    with TestClient(app) as client:
        for number in range(3):
            assert client.post(f"/products/{number}").status_code == 200
        eventually(lambda: len(seen) == 3)

    assert sorted(seen) == [0, 1, 2]
    assert worker.has_ended


def test_a_worker_runs_during_a_with_block(consumer, publisher):
    seen = []
    consumer.listener(name="see")(seen.append)

    with Worker(consumer, grace_seconds=10).running() as worker:
        publisher.publish(EVENT)
        eventually(lambda: seen)

    assert seen == [EVENT]
    assert worker.has_ended


class StoppingIteration(Middleware):
    """Raises what a future refuses."""

    def around_poll(self, queue, poll):
        raise StopIteration


def test_a_poll_that_raises_stop_iteration_does_not_wait_forever() -> None:
    async def poll(consumer) -> None:
        await asyncio.wait_for(consumer.consume_event_async(0), 30)

    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer("stock", driver=driver, middleware=[StoppingIteration()])
        consumer.listener()(lambda event: None)

        with pytest.raises(RuntimeError, match="StopIteration"):
            asyncio.run(poll(consumer))
