"""Publishing with asyncio, and calls that several callers share."""

import asyncio
import gc
import threading
import weakref

import pytest
import trio

from melange import (
    ConfigurationError,
    DriverConnectionError,
    EncodeError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    Gathering,
    InvalidMessageError,
    PublishError,
    QueueMessagePublisher,
    QueueOptions,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


class CountingDriver(InMemoryDriver):
    """Counts calls as SNS and SQS would: one for each ten messages; may be held up, or refuse messages by id."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.refused = set()
        self.error = None

    def publish(self, topic, messages):
        return self._counted(messages, lambda: super(CountingDriver, self).publish(topic, messages))

    def send(self, queue, messages, *, delay_seconds=0):
        return self._counted(
            messages,
            lambda: super(CountingDriver, self).send(queue, messages, delay_seconds=delay_seconds),
        )

    def _counted(self, messages, accept):
        self.calls.append([message.message_id for message in messages])
        assert self.may_go_on.wait(30)
        if self.error is not None:
            raise self.error
        refused = [one for one in messages if one.message_id in self.refused]
        if refused:
            return [Failure(one, DriverConnectionError(f"refused {one.message_id}")) for one in refused]
        return accept()


@pytest.fixture
def driver():
    with CountingDriver() as driver:
        yield driver


@pytest.fixture
def publisher(driver):
    """One that waits long enough for what is published at the same time on a busy machine."""
    return ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=0.2))


def numbered(count):
    return [{**EVENT, "number": number} for number in range(count)]


def test_concurrent_publishes_share_calls_and_each_gets_its_own_id(driver, publisher):
    consumer = ExchangeMessageConsumer("stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0))
    seen = {}
    consumer.listener(name="see")(lambda event, message_id: seen.update({message_id: event["number"]}))

    async def publish_all():
        return await asyncio.gather(*(publisher.publish_async(event) for event in numbered(100)))

    message_ids = asyncio.run(publish_all())
    while consumer.consume_event():
        pass

    assert [seen[message_id] for message_id in message_ids] == list(range(100))
    assert len(driver.calls) <= 15


def test_each_caller_gets_its_own_error(driver, publisher):
    driver.refused = {"b"}

    async def publish_all():
        return await asyncio.gather(
            *(publisher.publish_async(EVENT, message_id=one) for one in "abc"), return_exceptions=True
        )

    first, second, third = asyncio.run(publish_all())

    assert (first, third) == ("a", "c")
    assert isinstance(second, DriverConnectionError)
    assert str(second) == "refused b"


def test_a_message_that_the_broker_refuses_does_not_harm_its_neighbours(driver, publisher):
    async def publish_all():
        return await asyncio.gather(
            publisher.publish_async(EVENT, message_id="a"),
            publisher.publish_async(EVENT, message_id="b", headers={"bad name": "1"}),
            publisher.publish_async(EVENT, message_id="c"),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(publish_all())

    assert (first, third) == ("a", "c")
    assert isinstance(second, InvalidMessageError)


def test_a_broker_that_is_unavailable_is_an_error_for_all(driver, publisher):
    driver.error = DriverConnectionError("away")

    async def publish_all():
        return await asyncio.gather(
            *(publisher.publish_async(EVENT) for _ in range(3)), return_exceptions=True
        )

    assert [str(error) for error in asyncio.run(publish_all())] == ["away"] * 3


def test_what_has_waited_for_long_during_an_outage_fails_without_a_call_of_its_own(driver, monkeypatch):
    monkeypatch.setattr("melange.publishing.gathering.PATIENCE_SECONDS", 0.0)
    driver.error = DriverConnectionError("the broker is down")
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=0, max_calls=1))

    async def publish_many():
        driver.may_go_on.clear()
        publishes = [asyncio.create_task(publisher.publish_async(EVENT)) for _ in range(300)]
        while len(driver.calls) < 1 or len(publisher._gatherer._waiting) < 290:
            await asyncio.sleep(0.001)
        driver.may_go_on.set()
        return await asyncio.gather(*publishes, return_exceptions=True)

    results = asyncio.run(publish_many())

    assert {type(result) for result in results} == {DriverConnectionError}
    assert len(driver.calls) == 1
    assert "not sent, because a call before it failed: the broker is down" in {
        str(result) for result in results
    }


def test_an_event_that_cannot_be_written_raises_in_its_own_call(driver, publisher):
    with pytest.raises(EncodeError):
        asyncio.run(publisher.publish_async({**EVENT, "bad": object()}))

    assert driver.calls == []


def test_the_event_loop_goes_on_while_the_broker_is_slow(driver, publisher):
    driver.may_go_on.clear()

    async def scenario():
        publishing = asyncio.create_task(publisher.publish_async(EVENT))
        await asyncio.to_thread(lambda: eventually(lambda: driver.calls))
        ticks = 0
        while ticks < 100:
            await asyncio.sleep(0)
            ticks += 1
        assert not publishing.done()
        driver.may_go_on.set()
        return await publishing

    assert asyncio.run(scenario()) == driver.calls[0][0]


def test_a_cancelled_publish_that_waits_is_not_sent(driver):
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=10))

    async def scenario():
        cancelled = asyncio.create_task(publisher.publish_async(EVENT, message_id="cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.gather(*(publisher.publish_async(EVENT, message_id=f"{n}") for n in range(10)))

    asyncio.run(scenario())

    assert [sorted(call) for call in driver.calls] == [[str(number) for number in range(10)]]


def test_a_cancelled_publish_in_a_call_may_be_sent_and_its_neighbours_get_their_answers(driver, publisher):
    driver.may_go_on.clear()

    async def scenario():
        cancelled = asyncio.create_task(publisher.publish_async(EVENT, message_id="cancelled"))
        other = asyncio.create_task(publisher.publish_async(EVENT, message_id="other"))
        await asyncio.to_thread(lambda: eventually(lambda: driver.calls))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        driver.may_go_on.set()
        return await other

    assert asyncio.run(scenario()) == "other"
    assert driver.calls == [["cancelled", "other"]]


def test_the_loop_of_a_publish_may_be_gone_when_its_answer_comes(driver, publisher):
    driver.may_go_on.clear()

    async def give_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publisher.publish_async(EVENT, message_id="first"), 0.1)

    asyncio.run(give_up())
    driver.may_go_on.set()

    assert asyncio.run(publisher.publish_async(EVENT, message_id="second")) == "second"


def test_a_batch_is_a_call_of_its_own_with_all_its_ids_or_errors(driver, publisher):
    driver.refused = {"2"}
    ids = iter("0123")

    async def scenario():
        assert await publisher.publish_batch_async([]) == []
        return await publisher.publish_batch_async(numbered(4), message_id=lambda event: str(event["number"]))

    with pytest.raises(PublishError) as raised:
        asyncio.run(scenario())

    assert list(ids) == driver.calls[0]
    assert raised.value.succeeded == ["0", "1", "3"]


def test_messages_are_sent_to_a_queue_with_their_delays(driver):
    queue = driver.declare_queue("stock")
    sender = QueueMessagePublisher("stock", driver)

    async def scenario():
        await asyncio.gather(
            sender.send_async(EVENT),
            sender.send_async(EVENT, delay_seconds=60),
            sender.send_async(EVENT),
            sender.send_batch_async([EVENT] * 2, delay_seconds=60),
        )

    asyncio.run(scenario())

    depth = driver.measure_queue(queue)
    assert (depth.visible, depth.delayed) == (2, 3)


def test_the_order_of_each_group_is_kept(driver):
    consumer = ExchangeMessageConsumer(
        "stock.fifo", "products.fifo", driver=driver, queue=QueueOptions(wait_seconds=0)
    )
    seen = {}
    consumer.listener(name="see")(lambda event: seen.setdefault(event["group"], []).append(event["number"]))
    publisher = ExchangeMessagePublisher("products.fifo", driver, gather=Gathering(linger_seconds=0.2))

    async def publish_all():
        await asyncio.gather(
            *(
                publisher.publish_async(
                    {**EVENT, "group": number % 7, "number": number}, message_group_id=f"group-{number % 7}"
                )
                for number in range(200)
            )
        )

    asyncio.run(publish_all())
    while consumer.consume_event():
        pass

    assert seen == {group: list(range(group, 200, 7)) for group in range(7)}
    assert len(driver.calls) <= 40


def test_a_group_has_one_call_at_a_time_and_other_groups_go_on(driver):
    driver.may_go_on.clear()
    publisher = ExchangeMessagePublisher("products.fifo", driver, gather=Gathering(linger_seconds=0))

    async def scenario():
        tasks = []
        for message_id, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            tasks.append(
                asyncio.create_task(
                    publisher.publish_async(EVENT, message_id=message_id, message_group_id=group)
                )
            )
            expected = {"a1": 1, "a2": 1, "b1": 2}[message_id]
            await asyncio.to_thread(
                lambda expected=expected: eventually(lambda: len(driver.calls) == expected)
            )
        driver.may_go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())

    assert driver.calls == [["a1"], ["b1"], ["a2"]]


def test_threads_share_calls_on_request(driver):
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=0.5))
    together = threading.Barrier(20)
    message_ids = []

    def publish():
        together.wait(30)
        message_ids.append(publisher.publish(EVENT))

    threads = [threading.Thread(target=publish) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(message_ids) == sorted(message_id for call in driver.calls for message_id in call)
    assert len(driver.calls) <= 6


def test_threads_get_their_own_errors(driver):
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering())
    driver.refused = {"b"}

    with pytest.raises(DriverConnectionError, match="refused b"):
        publisher.publish(EVENT, message_id="b")

    assert publisher.publish(EVENT, message_id="a") == "a"


def test_threads_end_when_there_is_nothing_to_send(driver, publisher, monkeypatch):
    monkeypatch.setattr("melange.publishing.gathering.IDLE_SECONDS", 0.05)
    before = set(threading.enumerate())

    asyncio.run(publisher.publish_async(EVENT))

    eventually(lambda: set(threading.enumerate()) <= before)
    assert asyncio.run(publisher.publish_async(EVENT, message_id="again")) == "again"


def test_a_driver_is_closed_at_the_end_of_async_with():
    async def scenario():
        async with InMemoryDriver() as driver:
            await ExchangeMessagePublisher("products", driver).publish_async(EVENT)
        return driver

    driver = asyncio.run(scenario())

    with pytest.raises(Exception, match="closed"):
        driver.declare_topic("products")


def test_an_event_loop_is_not_kept_alive(publisher):
    async def publish():
        await publisher.publish_async(EVENT)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(publish())

    # The publisher's thread lets go a moment later.
    eventually(lambda: gc.collect() is not None and loop() is None)


def test_on_trio_there_is_an_error_with_advice(publisher):
    with pytest.raises(ConfigurationError, match=r"asyncio.*trio\.to_thread\.run_sync"):
        trio.run(publisher.publish_async, EVENT)


@pytest.mark.parametrize(
    "options",
    [
        {"linger_seconds": -1},
        {"linger_seconds": 11},
        {"linger_seconds": "1"},
        {"max_calls": 0},
        {"max_calls": True},
        {"max_calls": 2.5},
    ],
)
def test_numbers_out_of_bounds_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Gathering(**options)
