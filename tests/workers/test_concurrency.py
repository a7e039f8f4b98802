"""How a worker shares its threads: slow listeners hold nobody back, and coroutines need no threads."""

import asyncio
import json
import threading
from collections import Counter

import pytest

from melange import (
    DeduplicationError,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    Middleware,
    QueueOptions,
    RetryPolicy,
)
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message, message_being_handled, new_uuid
from waiting import eventually
from watched_driver import WatchedDriver, consumer_of, left_in, send, worker_on

DEADLINE_SECONDS = 30
AT_ONCE = 1_000


def send_typed(driver, queue, event_type_names):
    messages = [
        Message(new_uuid(), json.dumps({"event_type_name": name, "number": number}))
        for number, name in enumerate(event_type_names)
    ]
    driver.send(queue, messages)


@pytest.mark.parametrize("concurrency", [2, 8])
def test_slow_listeners_hold_no_quick_one_back(running, concurrency):
    driver = WatchedDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    quick, gate, slow_ones = [], threading.Event(), threading.Semaphore(0)

    @consumer.listener("Slow", name="slow")
    def wait(event):
        slow_ones.release()
        gate.wait(DEADLINE_SECONDS)

    consumer.listener("Quick", name="quick")(lambda event: quick.append(event["number"]))
    send_typed(driver, consumer.queue, ["Quick"] * 300)  # so that the worker takes all of them for quick
    running(consumer, concurrency=concurrency)
    eventually(lambda: len(quick) == 300)

    for _ in range(concurrency - 1):  # each is followed by quick ones that came with it
        quick.clear()
        send_typed(driver, consumer.queue, ["Slow"] + ["Quick"] * 9)
        assert slow_ones.acquire(timeout=DEADLINE_SECONDS)
        eventually(lambda: len(quick) == 9)

    gate.set()
    eventually(lambda: left_in(driver) == 0)


def test_a_queue_of_slow_listeners_uses_every_thread(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    together = threading.Barrier(8)
    consumer.listener(name="listener")(lambda event: together.wait(DEADLINE_SECONDS))
    send(driver, consumer.queue, 64)

    running(consumer, concurrency=8)

    eventually(lambda: left_in(driver) == 0)
    assert not together.broken


def test_a_thousand_coroutines_run_at_once_on_few_threads(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    at_work, most = Counter(), []
    before = threading.active_count()
    everybody_is_here = asyncio.Event()

    @consumer.listener(name="listener")
    async def meet(event):
        at_work["now"] += 1
        most.append(threading.active_count() - before)
        if at_work["now"] == AT_ONCE:
            everybody_is_here.set()
        await everybody_is_here.wait()

    send(driver, consumer.queue, AT_ONCE)

    running(consumer, concurrency=AT_ONCE)

    eventually(lambda: left_in(driver) == 0)
    assert at_work["now"] == AT_ONCE
    assert max(most) < 50


def test_concurrency_limits_the_coroutines_at_once(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    at_work, most = set(), []

    @consumer.listener(name="listener")
    async def meet(event):
        at_work.add(event["number"])
        most.append(len(at_work))
        await asyncio.sleep(0.001)
        at_work.discard(event["number"])

    send(driver, consumer.queue, 200)

    running(consumer, concurrency=7)

    eventually(lambda: left_in(driver) == 0)
    assert max(most) == 7


class WatchedStore(MemoryDeduplicationStore):
    """Writes down which threads call it."""

    def __init__(self, *, answers_at_once):
        super().__init__()
        self.answers_at_once = answers_at_once
        self.callers = set()

    def claim(self, key, token, lease_seconds):
        self.callers.add(threading.current_thread().name)
        return super().claim(key, token, lease_seconds)

    def complete(self, claimed):
        self.callers.add(threading.current_thread().name)
        return super().complete(claimed)


@pytest.mark.parametrize("answers_at_once", [True, False])
def test_the_event_loop_calls_only_stores_that_answer_at_once(running, answers_at_once):
    driver, store = InMemoryDriver(), WatchedStore(answers_at_once=answers_at_once)
    consumer = consumer_of(driver, deduplication=store)
    seen = []

    @consumer.listener(name="listener")
    async def see(event):
        await asyncio.sleep(0)
        seen.append(event["number"])

    send(driver, consumer.queue, 100)

    running(consumer, concurrency=3)

    eventually(lambda: left_in(driver) == 0)
    assert sorted(seen) == [*range(100)]
    assert (store.callers == {"melange-event-loop"}) == answers_at_once
    assert ("melange-event-loop" in store.callers) == answers_at_once


def test_a_queue_of_coroutines_and_one_of_plain_listeners_take_turns(running):
    driver = InMemoryDriver()
    coroutines, plain = consumer_of(driver, "coroutines"), consumer_of(driver, "plain")
    order = []

    @coroutines.listener(name="listener")
    async def see(event):
        await asyncio.sleep(0.001)
        order.append("coroutine")

    plain.listener(name="listener")(lambda event: order.append("plain"))
    send(driver, coroutines.queue, 500)
    send(driver, plain.queue, 500, first=500)

    running(coroutines, plain, concurrency=2)

    eventually(lambda: len(order) == 1000)
    assert set(order[:500]) == {"coroutine", "plain"}  # neither waits until the other is empty


def test_failures_of_coroutines_are_settled_beside_the_event_loop(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0))
    deferring = set()
    defer = driver.defer

    def watched_defer(deliveries, seconds):
        deferring.add(threading.current_thread().name)
        return defer(deliveries, seconds)

    driver.defer = watched_defer

    @consumer.listener(name="listener")
    async def fail(event):
        raise ValueError

    send(driver, consumer.queue, 20)

    running(consumer, concurrency=3)

    eventually(lambda: left_in(driver, consumer.queue.dead_letter_queue.name) == 20)
    assert deferring
    assert "melange-event-loop" not in deferring


def test_a_plain_listener_that_comes_later_never_runs_on_the_event_loop(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver)
    plain = set()

    @consumer.listener(name="first")
    async def subscribe(event):
        if len(consumer.subscriptions.all) == 1:
            consumer.listener(name="second")(lambda event: plain.add(threading.current_thread().name))

    send(driver, consumer.queue, 50)

    running(consumer, concurrency=1)

    eventually(lambda: left_in(driver) == 0)
    assert plain
    assert "melange-event-loop" not in plain


def test_a_coroutine_that_is_cancelled_before_its_first_step_has_failed():
    driver = InMemoryDriver()
    consumer = consumer_of(driver, retry=RetryPolicy(backoff=lambda attempts: 0))
    worker = worker_on(consumer)
    seen, cancelled = [], []

    @consumer.listener(name="listener")
    async def see(event):
        seen.append(event["number"])

    def cancel_the_first(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        if "on_loop" in coroutine.__qualname__ and not cancelled:
            task.cancel()
            cancelled.append(task)
        return task

    async def scenario():
        asyncio.get_running_loop().set_task_factory(cancel_the_first)
        async with worker.lifespan():
            send(driver, consumer.queue, 2)
            await asyncio.to_thread(lambda: eventually(lambda: left_in(driver) == 0))

    asyncio.run(scenario())

    assert cancelled[0].cancelled()
    assert sorted(seen) == [0, 1]
    assert worker.stop()


def test_plain_and_asynchronous_listeners_of_one_event_run_once_each_in_order(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    ran, handled = [], set()

    def note(name, event):
        ran.append((event["number"], name))
        handled.add(message_being_handled().message_id)

    @consumer.listener(name="first")
    async def first(event):
        await asyncio.sleep(0)
        note("first", event)

    @consumer.listener(name="second")
    def second(event, attempt):
        note("second", event)
        if event["number"] == 1 and attempt == 1:
            raise ValueError

    @consumer.listener(name="third")
    async def third(event):
        note("third", event)

    send(driver, consumer.queue, 2)

    running(consumer, concurrency=2)

    eventually(lambda: left_in(driver) == 0)
    for number, seconds in ((0, 1), (1, 2)):
        names = [name for which, name in ran if which == number]
        assert names[:3] == ["first", "second", "third"]
        assert names[3:] == ["second"] * (seconds - 1)
    assert handled == {"id-0", "id-1"}


def test_hooks_wrap_asynchronous_listeners_too(running):
    outcomes = []

    class Notes(Middleware):
        def around_listener(self, call, run):
            outcome = run(call)
            outcomes.append((call.listener_name, outcome.reason))
            return outcome

    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1), middleware=[Notes()])

    @consumer.listener(name="listener")
    async def listen(event):
        await asyncio.sleep(0.001)

    send(driver, consumer.queue, 3)

    running(consumer, concurrency=2)

    eventually(lambda: left_in(driver) == 0)
    assert outcomes == [("listener", "done")] * 3


def test_an_asynchronous_listener_publishes_with_the_correlation_of_its_event(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    follower = consumer_of(driver, "followers", queue=QueueOptions(wait_seconds=1))
    publisher = ExchangeMessagePublisher("after", driver)
    driver.declare_queue("followers", driver.declare_topic("after"))
    causes = []

    @consumer.listener(name="listener")
    async def pass_on(event):
        publisher.publish({"event_type_name": "After"})

    @follower.listener(name="listener")
    def note(event, headers):
        causes.append(headers["causation-id"])

    send(driver, consumer.queue, 3)

    running(consumer, follower, concurrency=2)

    eventually(lambda: sorted(causes) == ["id-0", "id-1", "id-2"])


class FailsOnce(Middleware):
    """Raises what looks like an outage of the store."""

    def __init__(self, hook):
        self.hook = hook
        self.failures = 0

    def _fail(self):
        self.failures += 1
        if self.failures == 1:
            raise DeduplicationError("this is the hook's own store")

    def around_delivery(self, delivery, process):
        if self.hook == "delivery":
            self._fail()
        return process()

    def around_listener(self, call, run):
        if self.hook == "listener":
            self._fail()
        return run(call)


@pytest.mark.parametrize("hook", ["delivery", "listener"])
def test_a_deduplication_error_of_a_hook_is_no_outage_of_the_store(running, hook, caplog):
    driver = InMemoryDriver()
    consumer = consumer_of(
        driver, queue=QueueOptions(wait_seconds=1), middleware=[FailsOnce(hook)], deduplication=Checked()
    )
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 1)

    running(consumer, concurrency=1)

    eventually(lambda: left_in(driver) == 0)
    assert consumer.store.checks == 1  # before the first poll
    assert "middleware failed on message id-0" in caplog.text


def test_a_deduplication_error_of_a_listener_is_a_failed_attempt(running):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1), deduplication=Checked())
    attempts = []

    @consumer.listener(name="listener")
    def fail_at_first(event, attempt):
        attempts.append(attempt)
        if attempt == 1:
            raise DeduplicationError("this is the listener's own store")

    send(driver, consumer.queue, 1)

    running(consumer, concurrency=1)

    eventually(lambda: left_in(driver) == 0)
    assert attempts == [1, 2]
    assert consumer.store.checks == 1


class Checked(MemoryDeduplicationStore):
    """Counts how often a worker asks if it is available."""

    checks = 0

    def check(self):
        self.checks += 1
