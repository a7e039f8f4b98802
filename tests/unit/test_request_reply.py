"""Questions between services: which reply belongs to which, and what is left behind."""

import asyncio
import threading
from dataclasses import dataclass

import pytest

from melange import (
    ConfigurationError,
    EventMessage,
    ExchangeMessageConsumer,
    Middleware,
    QueueMessagePublisher,
    QueueOptions,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import DecodeError, DriverClosedError, DriverConnectionError, NoReplyError
from melange.messages import Message
from melange.request_reply import Requester, remove_abandoned_reply_queues, reply
from melange.request_reply.replying import REPLY_QUEUE_PREFIX
from melange.testing.clock import ManualClock
from waiting import eventually


@dataclass(frozen=True)
class PriceAsked(EventMessage):
    sku: str


@dataclass(frozen=True)
class PriceGiven(EventMessage):
    sku: str
    cents: int


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def service(driver):
    """Answer in a thread, until the test ends."""
    consumer = ExchangeMessageConsumer("pricing", driver=driver, queue=QueueOptions(wait_seconds=1))
    stopping = threading.Event()

    def work():
        while not stopping.is_set():
            consumer.consume_event()

    consumer.listener(PriceAsked, name="price")(
        lambda event: reply(PriceGiven(event.sku, len(event.sku)), driver)
    )
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield consumer
    stopping.set()
    driver.end_waits(consumer.queue)
    thread.join()


def reply_queues(driver):
    return [queue.name for queue in driver.inspection().tagged_queues("melange-reply-queue", "true")]


def test_the_reply_to_a_request_is_returned(driver, service):
    with Requester("pricing", driver) as requester:
        assert requester.ask(PriceAsked("abc"), timeout_seconds=30, reply=PriceGiven) == PriceGiven("abc", 3)


def test_without_a_class_the_reply_is_a_dict(driver, service):
    with Requester("pricing", driver) as requester:
        assert requester.ask(PriceAsked("ab"), timeout_seconds=30)["cents"] == 2


def test_each_of_many_requests_gets_its_own_reply_by_one_queue(driver, service):
    with Requester("pricing", driver) as requester:
        answers = {}

        def ask(length):
            answers[length] = requester.ask(
                PriceAsked("x" * length), timeout_seconds=30, reply=PriceGiven
            ).cents

        threads = [threading.Thread(target=ask, args=(length,)) for length in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answers == {length: length for length in range(1, 9)}
        assert len(reply_queues(driver)) == 1


def test_an_event_loop_is_not_blocked_by_a_question(driver, service):
    async def ask_twice():
        questions = (
            requester.ask_async(PriceAsked(sku), timeout_seconds=30, reply=PriceGiven) for sku in ("a", "bb")
        )
        return await asyncio.gather(*questions)

    with Requester("pricing", driver) as requester:
        answers = asyncio.run(ask_twice())

    assert [answer.cents for answer in answers] == [1, 2]


def test_without_a_reply_in_time_an_error_says_so(driver):
    driver.declare_queue("pricing")

    with Requester("pricing", driver) as requester:
        with pytest.raises(NoReplyError, match=r"'pricing' came within 0\.01 s"):
            requester.ask(PriceAsked("a"), timeout_seconds=0.01)
        with pytest.raises(NoReplyError):
            asyncio.run(requester.ask_async(PriceAsked("a"), timeout_seconds=0.01))


class SlowToPublish(Middleware):
    """A hook whose own work takes too long."""

    def around_publish(self, destination, messages, publish):
        raise TimeoutError("the hook's own")


def test_a_request_that_was_not_sent_is_not_reported_as_one_without_a_reply(driver):
    driver.declare_queue("pricing")
    driver.middleware = [SlowToPublish()]

    with Requester("pricing", driver) as requester:
        with pytest.raises(TimeoutError, match="the hook's own"):
            requester.ask(PriceAsked("a"), timeout_seconds=30)
        with pytest.raises(TimeoutError, match="the hook's own"):
            asyncio.run(requester.ask_async(PriceAsked("a"), timeout_seconds=30))


def test_a_late_reply_is_dropped_and_the_next_one_is_right(driver, service):
    with Requester("pricing", driver) as requester:
        requester.ask(PriceAsked("a"), timeout_seconds=30)
        (name,) = reply_queues(driver)
        QueueMessagePublisher(name, driver).send({}, "PriceGiven", headers={"in-reply-to": "long-ago"})

        assert requester.ask(PriceAsked("ab"), timeout_seconds=30)["cents"] == 2
        eventually(lambda: driver.measure_queue(driver.get_queue(name)).visible == 0)


def test_a_reply_of_another_type_is_an_error(driver, service):
    with (
        Requester("pricing", driver) as requester,
        pytest.raises(DecodeError, match="'PriceGiven', not 'PriceAsked'"),
    ):
        requester.ask(PriceAsked("a"), timeout_seconds=30, reply=PriceAsked)


def test_closing_deletes_the_reply_queue_and_ends_waits(driver):
    driver.declare_queue("pricing")
    requester = Requester("pricing", driver)
    errors = []

    def ask():
        try:
            requester.ask(PriceAsked("a"), timeout_seconds=30)
        except DriverClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    eventually(lambda: driver.measure_queue(driver.get_queue("pricing")).visible)

    requester.close()
    requester.close()
    thread.join()

    assert len(errors) == 1
    assert reply_queues(driver) == []
    with pytest.raises(DriverClosedError):
        requester.ask(PriceAsked("a"), timeout_seconds=1)


def test_a_deleted_reply_queue_is_replaced(driver, service):
    with Requester("pricing", driver) as requester:
        requester.ask(PriceAsked("a"), timeout_seconds=30)
        (name,) = reply_queues(driver)
        driver.delete_queue(driver.get_queue(name))
        eventually(lambda: requester._reply_queue is None)

        assert requester.ask(PriceAsked("ab"), timeout_seconds=30)["cents"] == 2


def test_a_reply_to_an_asker_that_is_gone_is_no_failure(driver):
    driver.declare_queue("pricing")
    answers = []
    consumer = ExchangeMessageConsumer("pricing", driver=driver)
    consumer.listener(PriceAsked, name="price")(
        lambda event: answers.append(reply(PriceGiven("a", 1), driver))
    )
    with Requester("pricing", driver) as requester, pytest.raises(NoReplyError):
        requester.ask(PriceAsked("a"), timeout_seconds=0.01)

    consumer.consume_event(wait_seconds=0)

    assert answers == [False]


@pytest.mark.parametrize("queue_name", ["payments", "arn:aws:sqs:us-east-1:123456789012:payments", None])
def test_replies_go_to_reply_queues_only(driver, queue_name):
    payments = driver.declare_queue("payments")
    headers = {"reply-to": queue_name} if queue_name else {}
    queue = ExchangeMessageConsumer("pricing", driver=driver)
    refused = []

    @queue.listener(PriceAsked)
    def price(event):
        try:
            reply(PriceGiven("a", 1), driver)
        except ConfigurationError as error:
            refused.append(str(error))

    driver.send(
        queue.queue, [Message("id", '{"event_type_name": "PriceAsked", "sku": "a"}', "PriceAsked", headers)]
    )
    queue.consume_event(wait_seconds=0)

    assert len(refused) == 1
    assert driver.measure_queue(payments).visible == 0


def test_a_reply_outside_of_a_listener_is_refused(driver):
    with pytest.raises(ConfigurationError, match="no request is being handled"):
        reply(PriceGiven("a", 1), driver)


@pytest.mark.parametrize("timeout_seconds", [0, -1, True, float("inf"), "5"])
def test_a_time_limit_that_is_none_is_refused(driver, timeout_seconds):
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        Requester("pricing", driver).ask(PriceAsked("a"), timeout_seconds=timeout_seconds)


def test_reply_queues_of_killed_processes_are_removed_and_others_kept():
    clock = ManualClock()
    with InMemoryDriver(clock=clock) as driver:
        tags = {"melange-reply-queue": "true", "melange-alive-at": clock.now().isoformat()}
        driver.declare_queue(f"{REPLY_QUEUE_PREFIX}killed", tags=tags)
        driver.declare_queue("mine", tags=tags)
        clock.advance(3_601)
        driver.declare_queue(
            f"{REPLY_QUEUE_PREFIX}alive", tags={**tags, "melange-alive-at": clock.now().isoformat()}
        )
        driver.declare_queue(f"{REPLY_QUEUE_PREFIX}odd", tags={**tags, "melange-alive-at": "?"})

        removed = remove_abandoned_reply_queues(driver)

        assert removed == 1
        assert set(reply_queues(driver)) == {"mine", f"{REPLY_QUEUE_PREFIX}alive", f"{REPLY_QUEUE_PREFIX}odd"}


def test_a_time_in_which_a_queue_in_use_may_not_have_been_confirmed_is_refused(driver):
    with pytest.raises(ConfigurationError, match="at least 1200"):
        remove_abandoned_reply_queues(driver, older_than_seconds=600)


def test_a_requester_that_got_no_thread_tries_again(driver, service, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "melange-replies":
            raise RuntimeError("can't start new thread")
        start(thread)

    with Requester("pricing", driver) as requester:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            requester.ask(PriceAsked("abc"), timeout_seconds=30)
        monkeypatch.undo()

        assert requester.ask(PriceAsked("abc"), timeout_seconds=30, reply=PriceGiven) == PriceGiven("abc", 3)


class SlippingOnce(InMemoryDriver):
    """Raises what no driver should."""

    has_slipped = False

    def acknowledge(self, deliveries):
        if deliveries and deliveries[0].queue.name.startswith(REPLY_QUEUE_PREFIX) and not self.has_slipped:
            self.has_slipped = True
            raise ValueError("a slip")
        return super().acknowledge(deliveries)


@pytest.mark.parametrize("driver", [SlippingOnce()], ids=["slipping"])
def test_a_slip_of_the_driver_does_not_end_the_receiving_of_replies(driver, service):
    with Requester("pricing", driver) as requester:
        answers = [requester.ask(PriceAsked("abc"), timeout_seconds=30)["cents"] for _ in range(2)]

    assert answers == [3, 3]
    assert driver.has_slipped


def test_askers_in_an_outage_wait_for_one_call_together() -> None:
    class Unavailable(InMemoryDriver):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.goes_on = threading.Event()

        def declare_queue(self, name, *topics, **options):
            self.calls += 1
            self.goes_on.wait()
            raise DriverConnectionError("unavailable")

    with Unavailable() as driver, Requester("pricing", driver) as requester:
        entered, errors = [], []

        def ask():
            entered.append(True)
            try:
                requester.ask(PriceAsked("abc"), timeout_seconds=1)
            except DriverConnectionError as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        eventually(lambda: driver.calls and len(entered) == 10)
        driver.goes_on.set()
        for thread in threads:
            thread.join()

        assert len(errors) == 10
        assert driver.calls < 10
