"""Spans by the semantic conventions, and the context that travels with the messages."""

import asyncio
import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from melange import (
    DriverConnectionError,
    EventSerializer,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    Gathering,
    Middleware,
    QueueMessagePublisher,
    Reject,
    Retry,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.drivers.sqs_rules import message_size
from melange.errors import Failure
from melange.publishing.outgoing import message_from
from melange.telemetry import Tracing

EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def tracing(driver, spans):
    tracing = Tracing(spans.provider)
    driver.middleware = [tracing]
    return tracing


def size_of(event):
    """Return the bytes that the broker counts for an event without a context."""
    message = message_from(
        EventSerializer.instance(),
        event,
        None,
        headers={},
        message_id=None,
        message_group_id=None,
        message_deduplication_id=None,
        is_fifo=False,
    )
    return message_size(message)


def linked(span):
    return [link.context.span_id for link in span.links]


def test_one_message_makes_a_span_for_each_step(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)

    message_id = ExchangeMessagePublisher("products", driver).publish(
        EVENT, headers={"correlation-id": "web-42"}
    )
    consumer.consume_event()

    assert spans.names == ["send products", "receive stock", "shelve", "process stock", "settle stock"]
    kinds = [SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.CONSUMER, SpanKind.CLIENT]
    assert [span.kind for span in spans.all] == kinds
    assert dict(spans.one("send products").attributes) == {
        "messaging.system": "melange.memory",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "products",
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": "web-42",
        "melange.event.type": "ProductAdded",
    }
    assert dict(spans.one("receive stock").attributes) == {
        "messaging.system": "melange.memory",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "stock",
        "messaging.batch.message_count": 1,
    }
    assert dict(spans.one("process stock").attributes) == {
        "messaging.system": "melange.memory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "stock",
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": "web-42",
        "melange.event.type": "ProductAdded",
        "melange.receive_count": 1,
        "melange.outcome": "done",
    }
    assert dict(spans.one("shelve").attributes) == {
        "melange.listener.name": "shelve",
        "melange.attempt": 1,
        "melange.outcome": "done",
    }


def test_by_default_the_processing_is_a_trace_of_its_own_with_a_link(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    ExchangeMessagePublisher("products", driver).publish(EVENT)

    consumer.consume_event()

    send, process, listener = spans.one("send products"), spans.one("process stock"), spans.one("shelve")
    assert process.parent is None
    assert process.context.trace_id != send.context.trace_id
    assert linked(process) == [send.context.span_id]
    assert linked(spans.one("receive stock")) == [send.context.span_id]
    assert listener.parent.span_id == process.context.span_id


def test_by_choice_the_processing_continues_the_trace(driver, spans, make_consumer):
    driver.middleware = [Tracing(spans.provider, continue_traces=True)]
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    ExchangeMessagePublisher("products", driver).publish(EVENT)
    tracer = spans.provider.get_tracer("test")

    with tracer.start_as_current_span("around") as around:
        consumer.consume_event()

    send, process = spans.one("send products"), spans.one("process stock")
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == send.context.trace_id
    assert linked(process) == [send.context.span_id, around.get_span_context().span_id]


def test_what_a_listener_publishes_is_a_part_of_its_trace(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    publisher = ExchangeMessagePublisher("steps", driver)
    consumer.listener(name="shelve")(lambda event: publisher.publish(EVENT))
    ExchangeMessagePublisher("products", driver).publish(EVENT)

    consumer.consume_event()

    assert spans.one("send steps").parent.span_id == spans.one("shelve").context.span_id


def test_an_asynchronous_listener_has_the_span_of_its_run(spans):
    with InMemoryDriver() as driver:
        driver.middleware = [Tracing(spans.provider)]
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
        seen, done = [], threading.Event()

        @consumer.listener(name="shelve")
        async def shelve(event):
            seen.append(trace.get_current_span().get_span_context().span_id)
            done.set()

        worker = Worker(consumer, grace_seconds=10)
        worker.start()
        ExchangeMessagePublisher("products", driver).publish(EVENT)

        assert done.wait(30)
        assert worker.stop(30)
        assert seen == [spans.one("shelve").context.span_id]


# --- batches -------------------------------------------------------------------------------------


def test_each_message_of_a_batch_has_a_context_of_its_own(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)

    ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 3)
    consumer.consume_event()

    created = [span.context.span_id for span in spans.named("create products")]
    send = spans.one("send products")
    assert send.kind == SpanKind.CLIENT
    assert send.attributes["messaging.batch.message_count"] == 3
    assert linked(send) == created
    assert linked(spans.one("receive stock")) == created
    assert [linked(process) for process in spans.named("process stock")] == [[one] for one in created]


def test_without_create_spans_the_messages_of_a_batch_share_a_context(driver, spans, make_consumer):
    driver.middleware = [Tracing(spans.provider, create_spans=False)]
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)

    ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 2)
    consumer.consume_event()

    send = spans.one("send products")
    assert send.kind == SpanKind.PRODUCER
    assert [linked(process) for process in spans.named("process stock")] == [[send.context.span_id]] * 2


def test_a_context_that_the_caller_gave_is_kept(tracing, spans, driver, make_consumer):
    consumer, seen = make_consumer(), []
    consumer.listener(name="see")(lambda event, headers: seen.append(headers["traceparent"]))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    ExchangeMessagePublisher("products", driver).publish(EVENT, headers={"traceparent": traceparent})
    consumer.consume_event()

    assert seen == [traceparent]
    assert linked(spans.one("send products")) == [0xB7AD6B7169203331]


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", "00-0-0-0", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
def test_a_context_that_cannot_be_read_harms_nothing(tracing, spans, driver, make_consumer, traceparent):
    consumer = make_consumer()
    consumer.listener(name="see")(lambda event: None)

    ExchangeMessagePublisher("products", driver).publish(EVENT, headers={"traceparent": traceparent})
    consumer.consume_event()

    assert spans.one("process stock").attributes["melange.outcome"] == "done"


def test_a_message_that_is_too_large_with_its_context_travels_without_it(
    tracing, spans, driver, make_consumer
):
    consumer, seen = make_consumer(), []
    consumer.listener(name="see")(lambda event, headers: seen.append(dict(headers)))
    room = driver.get_topic("products").max_message_bytes - size_of({**EVENT, "text": ""})

    ExchangeMessagePublisher("products", driver).publish({**EVENT, "text": "x" * (room - 20)})
    consumer.consume_event()

    assert seen == [{}]


# --- failures ------------------------------------------------------------------------------------


def test_a_failed_listener_and_its_message_have_the_error(tracing, spans, driver, make_consumer):
    consumer = make_consumer(retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0))

    @consumer.listener(name="shelve")
    def fail(event):
        raise ValueError("no such shelf")

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()
    consumer.consume_event()

    send = spans.one("send products")
    first, second = spans.named("process stock")
    assert (first.attributes["melange.outcome"], first.attributes["melange.attempt"]) == ("retry", 1)
    assert (second.attributes["melange.outcome"], second.attributes["melange.attempt"]) == ("dead_letter", 2)
    assert linked(first) == linked(second) == [send.context.span_id]
    run = spans.named("shelve")[0]
    for span in (first, second, run):
        assert span.status.status_code == StatusCode.ERROR
        assert span.attributes["error.type"] == "ValueError"
    assert run.events[0].attributes["exception.message"] == "no such shelf"
    settle_retry, settle_dead_letter = spans.named("settle stock")
    assert settle_retry.attributes["melange.outcome.retry"] == 1
    assert settle_dead_letter.attributes["melange.outcome.dead_letter"] == 1
    assert linked(settle_dead_letter) == [send.context.span_id]


def test_a_dead_letter_keeps_the_context_so_that_a_retry_is_linked_to_the_first_publish(
    tracing, spans, driver, make_consumer
):
    consumer = make_consumer(retry=RetryPolicy(max_attempts=1))

    @consumer.listener(name="shelve")
    def fail(event):
        raise ValueError

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()
    (dead,) = driver.receive(driver.get_queue("stock-dlq"), 1, 0)
    driver.send(consumer.queue, [dead.message])
    consumer.consume_event()

    assert [linked(one) for one in spans.named("process stock")] == [
        [spans.one("send products").context.span_id]
    ] * 2


def test_a_listener_that_asks_for_a_retry_has_not_failed(tracing, spans, driver, make_consumer):
    consumer = make_consumer()

    @consumer.listener(name="shelve")
    def wait(event):
        raise Retry(5)

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()

    process = spans.one("process stock")
    assert process.attributes["melange.outcome"] == "retry"
    assert process.status.status_code == StatusCode.UNSET


def test_a_rejected_message_is_an_error_with_its_reason(tracing, spans, driver, make_consumer):
    consumer = make_consumer()

    @consumer.listener(name="shelve")
    def refuse(event):
        raise Reject("discontinued")

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()

    process = spans.one("process stock")
    assert process.status.status_code == StatusCode.ERROR
    assert "discontinued" in process.status.description


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def test_an_exception_without_text_harms_nothing(tracing, spans, driver, make_consumer):
    consumer = make_consumer()

    @consumer.listener(name="shelve")
    def fail(event):
        raise Unspeakable

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()

    assert spans.one("process stock").attributes["error.type"].endswith("Unspeakable")


class Refusing(Middleware):
    """Stands for a broker that refuses some messages."""

    def __init__(self, refuses):
        self.refuses = refuses

    def around_publish(self, destination, messages, publish):
        return [Failure(message, DriverConnectionError("away")) for message in messages[: self.refuses]]


def test_messages_that_were_not_accepted_are_an_error_of_the_send_span(spans, driver):
    driver.middleware = [Tracing(spans.provider), Refusing(2)]

    with pytest.raises(Exception, match="2 of 3"):
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 3)

    send = spans.one("send products")
    assert send.status.description == "2 of 3 messages failed"
    assert send.attributes["error.type"] == "melange.errors.DriverConnectionError"


def test_a_call_that_raises_is_an_error_of_the_send_span(tracing, spans, driver):
    with pytest.raises(Exception, match="queue"):
        QueueMessagePublisher("missing", driver).send(EVENT)
    with pytest.raises(Exception, match="message id"):
        ExchangeMessagePublisher("products", driver).publish(EVENT, message_id="")

    (send,) = spans.named("send products")
    assert send.attributes["error.type"] == "melange.errors.InvalidMessageError"
    assert send.status.status_code == StatusCode.ERROR


def test_an_empty_poll_makes_no_span(tracing, spans, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)

    consumer.consume_event()

    assert spans.all == ()


def test_a_failed_poll_makes_a_span_with_the_error(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    driver.delete_queue(consumer.queue)

    with pytest.raises(Exception, match="stock"):
        consumer.consume_event()

    assert spans.one("receive stock").attributes["error.type"] == "melange.errors.QueueNotFoundError"


def test_without_an_sdk_everything_works(driver, make_consumer):
    driver.middleware = [Tracing()]
    consumer, seen = make_consumer(), []
    consumer.listener(name="see")(lambda event, headers: seen.append(dict(headers)))

    ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 2)
    consumer.consume_event()

    assert seen == [{}, {}]


def test_publishes_that_share_a_call_keep_the_traces_of_their_callers(tracing, spans, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=0.2))
    tracer = spans.provider.get_tracer("test")

    async def handle(number):
        with tracer.start_as_current_span(f"request {number}"):
            await publisher.publish_async(EVENT, message_id=f"message-{number}")

    async def handle_all():
        await asyncio.gather(*(handle(number) for number in range(3)))

    asyncio.run(handle_all())
    consumer.consume_event()

    created = {span.context.span_id: span for span in spans.named("create products")}
    for process in spans.named("process stock"):
        (creator,) = linked(process)
        number = process.attributes["messaging.message.id"][-1]
        request = spans.one(f"request {number}")
        assert created[creator].parent.span_id == request.context.span_id
    assert len(created) == 3
    assert sum(len(linked(send)) for send in spans.named("send products")) == 3
