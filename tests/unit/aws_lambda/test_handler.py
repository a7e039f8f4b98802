"""The handler: what Lambda passes in, what the listeners receive, and what Lambda is answered."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import botocore
import pytest
from aws_lambda_powertools.shared import user_agent
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    SqsFifoPartialProcessor,
    process_partial_response,
)

from melange import (
    NO_DEAD_LETTER_QUEUE,
    ConfigurationError,
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
    Reject,
    Retry,
    RetryPolicy,
)
from melange.aws_lambda import InvocationFailed, handler
from melange.drivers.memory import InMemoryDriver
from melange.large_events import LargeEvents, MemoryStore
from melange.messages import Delivery
from melange.serialization.aws_events import aws_event_type
from melange.testing import ManualClock
from unit.aws_lambda import documented

# Importing Powertools hooks into every later session of botocore: other tests in this process want sessions without hooks.
botocore.unregister_initializer(user_agent._initializer_botocore_session)


@pytest.fixture
def driver(clock):
    return InMemoryDriver(clock=clock)


class Context:
    """Lambda's context of an invocation that began at ``started`` and may take ``seconds``."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round(1000 * (self._end - self._clock.monotonic())))


def any_type(body: Any, headers: Any) -> str:
    return "Any"


def invocation(driver: InMemoryDriver, consumer: ExchangeMessageConsumer, limit: int = 10) -> dict[str, Any]:
    """Receive messages as Lambda's poller does, and return the event for the function."""
    return {
        "Records": [
            record_of(one) for one in driver.receive(consumer.queue, limit, 0, visibility_timeout_seconds=360)
        ]
    }


def record_of(delivery: Delivery) -> dict[str, Any]:
    message = delivery.message
    attributes = {"ApproximateReceiveCount": str(delivery.receive_count)}
    if message.message_group_id is not None:
        attributes["MessageGroupId"] = message.message_group_id
    return {
        "messageId": delivery.broker_message_id,
        "receiptHandle": delivery.receipt_handle,
        "body": message.body,
        "attributes": attributes,
        "messageAttributes": {
            "melange-message-id": {"dataType": "String", "stringValue": message.message_id},
            "melange-event-type": {"dataType": "String", "stringValue": message.event_type_name},
            **{name: {"dataType": "String", "stringValue": value} for name, value in message.headers.items()},
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-2:123456789012:{delivery.queue.name}",
    }


def failures(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


class UnavailableStore(MemoryStore):
    is_away = False

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        if self.is_away:
            raise DriverConnectionError("the store is out of reach")
        return super().get(bucket, key, max_bytes)


def test_large_events_are_read_from_their_store(driver, clock) -> None:
    store = UnavailableStore()
    large = LargeEvents(driver, store, threshold_bytes=0)
    consumer = ExchangeMessageConsumer("stock", driver=large)
    received = []
    consumer.listener("OrderPlaced", name="collect")(received.append)
    QueueMessagePublisher("stock", large).send({"order_id": 7}, "OrderPlaced")
    event = invocation(driver, consumer)

    store.is_away = True
    before = handler(consumer)(event, Context(clock, 60))
    store.is_away = False
    after = handler(consumer)(event, Context(clock, 60))

    assert failures(before) == [event["Records"][0]["messageId"]]
    assert failures(after) == []
    assert received == [{"order_id": 7, "event_type_name": "OrderPlaced"}]


# --- what listeners receive ------------------------------------------------------------------------


@pytest.mark.parametrize("with_context", [True, False], ids=["with its context", "without"])
def test_the_documented_records_of_a_standard_queue_are_handled(driver, clock, with_context) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    received = []
    consumer.listener()(
        lambda event, headers, message_id: received.append((event, dict(headers), message_id))
    )

    answer = handler(consumer)(documented.STANDARD_QUEUE, Context(clock, 60) if with_context else None)

    assert answer == {"batchItemFailures": []}
    assert received == [
        ("Test message.", {"myAttribute": "myValue"}, "059f36b4-87a3-44ab-83d2-661975830a7d"),
        ("Test message.", {}, "2e1424d4-f796-459a-8184-9c92662be6da"),
    ]


def test_the_documented_event_of_a_topic_is_handled(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    received = []
    consumer.listener()(lambda event, headers: received.append((event, headers["Test"])))

    assert handler(consumer)(documented.TOPIC) == {"batchItemFailures": []}
    assert received == [("Hello from SNS!", "TestString")]


def test_an_event_of_eventbridge_in_a_queue_is_handled(driver) -> None:
    consumer = ExchangeMessageConsumer(
        "my-queue", driver=driver, queue=QueueOptions(event_type=aws_event_type)
    )
    states = []
    consumer.listener("EC2 Instance State-change Notification")(
        lambda event: states.append(event["detail"]["state"])
    )

    handler(consumer)(documented.with_body(documented.STANDARD_QUEUE, documented.EVENTBRIDGE))

    assert states == ["terminated"]


def test_an_envelope_of_a_topic_is_removed(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver)
    received = []
    consumer.listener("OrderPlaced")(lambda event, message_id: received.append((event["id"], message_id)))
    notification = {
        **documented.TOPIC["Records"][0]["Sns"],
        "Message": json.dumps({"event_type_name": "OrderPlaced", "id": 7}),
    }

    handler(consumer)(documented.with_body(documented.STANDARD_QUEUE, notification))

    assert received == [(7, "95df01b4-ee98-5cb9-9903-4c221d41eb5e")]


def test_binary_attributes_arrive_as_base64(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    received = []
    consumer.listener()(lambda event, headers: received.append(headers["picture"]))
    event = documented.with_body(documented.STANDARD_QUEUE, "{}")
    event["Records"][0]["messageAttributes"] = {"picture": {"dataType": "Binary", "binaryValue": "AAEC"}}

    handler(consumer)(event)

    assert received == ["AAEC"]


def test_asynchronous_listeners_share_one_loop_in_all_invocations(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    loops = []

    @consumer.listener()
    async def listen(event):
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    handle = handler(consumer)
    handle(documented.STANDARD_QUEUE)
    handle(documented.with_body(documented.STANDARD_QUEUE, "another"))

    assert len(loops) == 3
    assert len(set(loops)) == 1
    handle._runner.close()


# --- failures --------------------------------------------------------------------------------------


def test_a_failed_record_is_reported_and_comes_back_after_the_delay_of_its_retry(driver, clock) -> None:
    consumer = ExchangeMessageConsumer(
        "stock", "orders", driver=driver, retry=RetryPolicy(backoff=lambda _: 90)
    )

    @consumer.listener("OrderPlaced")
    def pack(event, attempt):
        if event["id"] == 1 and attempt == 1:
            raise ConnectionError

    publisher = ExchangeMessagePublisher("orders", driver)
    for number in range(3):
        publisher.publish({"id": number}, "OrderPlaced")
    event = invocation(driver, consumer)

    answer = handler(consumer)(event, Context(clock, 60))

    assert failures(answer) == [event["Records"][1]["messageId"]]
    clock.advance(89)
    assert invocation(driver, consumer)["Records"] == []
    clock.advance(1)
    again = invocation(driver, consumer)
    assert [one["messageId"] for one in again["Records"]] == failures(answer)
    assert handler(consumer)(again, Context(clock, 60)) == {"batchItemFailures": []}


def test_a_rejected_record_goes_to_the_dead_letter_queue_with_the_reason_and_is_not_reported(driver) -> None:
    consumer = ExchangeMessageConsumer("stock", "orders", driver=driver)

    @consumer.listener("OrderPlaced")
    def pack(event):
        raise Reject("out of stock")

    ExchangeMessagePublisher("orders", driver).publish({}, "OrderPlaced")

    answer = handler(consumer)(invocation(driver, consumer))

    (dead,) = driver.list_messages(driver.get_queue("stock-dlq"))
    assert answer == {"batchItemFailures": []}
    assert json.loads(dead.headers["melange-dead-letter"])["reason"] == "out of stock"


def test_a_rejected_record_without_a_dead_letter_queue_is_reported(driver) -> None:
    consumer = ExchangeMessageConsumer(
        "stock", "orders", driver=driver, queue=QueueOptions(dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)
    )

    @consumer.listener("OrderPlaced")
    def pack(event):
        raise Reject("out of stock")

    ExchangeMessagePublisher("orders", driver).publish({}, "OrderPlaced")
    event = invocation(driver, consumer)

    assert failures(handler(consumer)(event)) == [event["Records"][0]["messageId"]]


def test_on_fifo_only_the_rest_of_the_failed_ones_group_is_reported(driver, clock) -> None:
    consumer = ExchangeMessageConsumer("stock.fifo", "orders.fifo", driver=driver)
    handled = []

    @consumer.listener("OrderPlaced")
    def pack(event):
        if event["id"] == 1:
            raise Retry(delay_seconds=30)
        handled.append(event["id"])

    publisher = ExchangeMessagePublisher("orders.fifo", driver)
    for number, group in enumerate(["Ada", "Ada", "Grace", "Ada", "Grace"]):
        publisher.publish({"id": number}, "OrderPlaced", message_group_id=group)
    event = invocation(driver, consumer)

    answer = handler(consumer)(event, Context(clock, 60))

    numbers = {one["messageId"]: json.loads(one["body"])["id"] for one in event["Records"]}
    assert [numbers[failure] for failure in failures(answer)] == [1, 3]
    assert handled == [0, 2, 4]


def test_a_record_that_comes_twice_runs_once(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    received = []
    consumer.listener()(received.append)
    handle = handler(consumer)

    handle(documented.STANDARD_QUEUE)
    handle(documented.STANDARD_QUEUE)

    assert len(received) == 2  # the records of one event


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "asynchronous"])
def test_a_listener_that_exits_fails_its_record_alone(driver, is_async) -> None:
    consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
    finished = []

    def listen(event):
        if event["number"] == 0:
            raise SystemExit
        finished.append(event["number"])

    async def listen_async(event):
        await asyncio.sleep(0)
        listen(event)

    consumer.listener(name="listen")(listen_async if is_async else listen)
    ExchangeMessagePublisher("products", driver).publish_batch(
        [{"event_type_name": "ProductAdded", "number": number} for number in range(3)]
    )
    event = invocation(driver, consumer)
    handle = handler(consumer)

    answer = handle(event)

    assert failures(answer) == [event["Records"][0]["messageId"]]
    assert finished == [1, 2]
    if handle._runner is not None:
        handle._runner.close()


def test_a_record_of_a_topic_that_failed_fails_the_invocation(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))

    @consumer.listener()
    def listen(event, attempt):
        if attempt == 1:
            raise ConnectionError

    handle = handler(consumer)

    with pytest.raises(InvocationFailed, match="95df01b4-ee98-5cb9-9903-4c221d41eb5e"):
        handle(documented.TOPIC)
    handle(documented.TOPIC)


def test_a_rejected_record_of_a_topic_goes_to_the_dead_letter_queue(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))

    @consumer.listener()
    def listen(event):
        raise Reject("unwanted")

    handler(consumer)(documented.TOPIC)

    assert len(driver.list_messages(driver.get_queue("my-queue-dlq"))) == 1


# --- time ------------------------------------------------------------------------------------------


def test_records_without_time_left_are_reported_and_visible_at_once(driver, clock) -> None:
    consumer = ExchangeMessageConsumer("stock", "orders", driver=driver)
    handled = []

    @consumer.listener("OrderPlaced")
    def pack(event):
        handled.append(event["id"])
        clock.advance(20)

    publisher = ExchangeMessagePublisher("orders", driver)
    for number in range(4):
        publisher.publish({"id": number}, "OrderPlaced")
    event = invocation(driver, consumer)

    answer = handler(consumer, grace_seconds=5)(event, Context(clock, 45))

    assert handled == [0, 1]
    assert failures(answer) == [one["messageId"] for one in event["Records"][2:]]
    assert driver.measure_queue(consumer.queue).visible == 2


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "asynchronous"])
def test_a_listener_that_hangs_is_given_up_before_lambda_ends_the_process(is_async) -> None:
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer("stock", "orders", driver=driver)
    never = asyncio.Event() if is_async else None

    if is_async:

        @consumer.listener("OrderPlaced")
        async def wait(event):
            if event["id"] == 1:
                await never.wait()
    else:

        @consumer.listener("OrderPlaced")
        def wait(event):
            if event["id"] == 1:
                threading.Event().wait(30)

    publisher = ExchangeMessagePublisher("orders", driver)
    for number in range(2):
        publisher.publish({"id": number}, "OrderPlaced")
    event = invocation(driver, consumer)
    handle = handler(consumer, grace_seconds=1)

    answer = handle(event, Context(driver.clock, 1.5))

    assert failures(answer) == [event["Records"][1]["messageId"]]
    if handle._runner is not None:
        handle._runner.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_that_its_neighbours_left_little_time_is_not_an_attempt(is_async) -> None:
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "stock",
        "orders",
        driver=driver,
        retry=RetryPolicy(max_attempts=1),
        queue=QueueOptions(wait_seconds=0),
    )
    attempts: list[tuple[int, int]] = []
    is_slow = True
    if is_async:

        @consumer.listener("OrderPlaced", name="ship")
        async def ship_soon(event, attempt):
            attempts.append((event["id"], attempt))
            await asyncio.sleep(1 if is_slow else 0)
    else:

        @consumer.listener("OrderPlaced", name="ship")
        def ship(event, attempt):
            attempts.append((event["id"], attempt))
            threading.Event().wait(1 if is_slow else 0)

    publisher = ExchangeMessagePublisher("orders", driver)
    for number in range(2):
        publisher.publish({"id": number}, "OrderPlaced")
    event = invocation(driver, consumer)
    handle = handler(consumer, grace_seconds=0.5)

    first_answer = handle(event, Context(driver.clock, 1.9))
    is_slow = False
    second_answer = handle(invocation(driver, consumer), Context(driver.clock, 10))

    assert failures(first_answer) == [event["Records"][1]["messageId"]]
    assert failures(second_answer) == []
    assert attempts == [(0, 1), (1, 1), (1, 1)]
    assert driver.measure_queue(driver.get_queue("stock-dlq")).visible == 0
    if handle._runner is not None:
        handle._runner.close()


@pytest.mark.parametrize("limit_seconds", [None, 0.1])
def test_a_run_that_had_its_time_is_an_attempt(limit_seconds) -> None:
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "stock", "orders", driver=driver, retry=RetryPolicy(max_attempts=1), timeout_seconds=limit_seconds
    )
    released = threading.Event()

    @consumer.listener("OrderPlaced")
    def hang(event):
        released.wait(30)

    ExchangeMessagePublisher("orders", driver).publish({"id": 1}, "OrderPlaced")

    answer = handler(consumer, grace_seconds=0.5)(invocation(driver, consumer), Context(driver.clock, 1))
    released.set()

    assert failures(answer) == []
    assert driver.measure_queue(driver.get_queue("stock-dlq")).visible == 1


# --- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", [{}, {"Records": [{"eventSource": "aws:s3"}]}, documented.EVENTBRIDGE, "text", None], ids=repr
)
def test_another_event_is_an_error_that_says_what_to_do(driver, event) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver)

    with pytest.raises(ConfigurationError, match="event source mapping"):
        handler(consumer)(event)


def test_records_of_another_queue_are_an_error(driver) -> None:
    consumer = ExchangeMessageConsumer("other", driver=driver)

    with pytest.raises(ConfigurationError, match="record of queue my-queue, and its handler is for other"):
        handler(consumer)(documented.STANDARD_QUEUE)


def test_a_consumer_without_listeners_is_an_error(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver)

    with pytest.raises(ConfigurationError, match="nothing listens"):
        handler(consumer)(documented.STANDARD_QUEUE)


def test_what_is_not_a_consumer_is_refused(driver) -> None:
    consumer = ExchangeMessageConsumer("my-queue", driver=driver)

    for arguments in ((), ("my-queue",), (consumer, consumer)):
        with pytest.raises(ConfigurationError, match="a Lambda handler"):
            handler(*arguments)
    with pytest.raises(ConfigurationError, match="grace_seconds"):
        handler(consumer, grace_seconds=-1)


def test_several_queues_may_share_a_function(driver) -> None:
    received = []
    consumers = [
        ExchangeMessageConsumer(name, driver=driver, queue=QueueOptions(event_type=any_type))
        for name in ("my-queue", "fifo.fifo")
    ]
    for consumer in consumers:
        consumer.listener()(lambda event, queue_name: received.append(queue_name))

    handle = handler(*consumers)
    handle(documented.STANDARD_QUEUE)
    handle(documented.FIFO_QUEUE)

    assert received == ["my-queue", "my-queue", "fifo.fifo"]


# --- beside Powertools -----------------------------------------------------------------------------

BATCHES = [
    pytest.param(["ok", "ok"], id="all succeed"),
    pytest.param(["ok", "bad", "ok"], id="one fails"),
    pytest.param(["bad", "ok", "bad"], id="two fail"),
]


@pytest.mark.parametrize("bodies", BATCHES)
def test_on_a_standard_queue_the_answer_is_that_of_powertools(driver, bodies) -> None:
    event = documented.with_body(documented.STANDARD_QUEUE, *bodies)
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    consumer.listener()(refuse_bad)

    theirs = process_partial_response(
        event, lambda record: refuse_bad(record.body), BatchProcessor(EventType.SQS), context=None
    )

    assert handler(consumer)(event) == theirs


@pytest.mark.parametrize("bodies", BATCHES)
def test_on_a_fifo_queue_the_answer_is_that_of_powertools_which_skips_groups(driver, bodies) -> None:
    event = documented.with_body(documented.FIFO_QUEUE, *bodies, "ok")
    for number, one in enumerate(event["Records"]):
        one["attributes"] = {**one["attributes"], "MessageGroupId": "Ada" if number else "Grace"}
    consumer = ExchangeMessageConsumer("fifo.fifo", driver=driver, queue=QueueOptions(event_type=any_type))
    consumer.listener()(refuse_bad)

    theirs = process_partial_response(
        event,
        lambda record: refuse_bad(record.body),
        SqsFifoPartialProcessor(skip_group_on_error=True),
        context=None,
    )

    assert handler(consumer)(event) == theirs


def refuse_bad(body: str) -> None:
    if body == "bad":
        raise ValueError(body)


def test_powertools_fails_a_batch_without_a_single_success_and_melange_reports_it(driver) -> None:
    event = documented.with_body(documented.STANDARD_QUEUE, "bad")
    consumer = ExchangeMessageConsumer("my-queue", driver=driver, queue=QueueOptions(event_type=any_type))
    consumer.listener()(refuse_bad)

    answer = handler(consumer)(event)

    assert failures(answer) == [event["Records"][0]["messageId"]]


def test_a_message_sent_to_the_queue_itself_is_handled(driver) -> None:
    consumer = ExchangeMessageConsumer("stock", driver=driver)
    received = []
    consumer.listener("OrderPlaced")(lambda event, receive_count: received.append(receive_count))
    QueueMessagePublisher("stock", driver).send({}, "OrderPlaced")

    handler(consumer)(invocation(driver, consumer))

    assert received == [1]
