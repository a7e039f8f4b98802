"""What publishers make of events, and what they refuse before anything is sent."""

import json
import threading
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from melange import (
    ConfigurationError,
    DriverConnectionError,
    DriverManager,
    EncodeError,
    EventMessage,
    ExchangeMessagePublisher,
    InvalidMessageError,
    InvalidNameError,
    MessageTooLargeError,
    NoDriverError,
    PublishError,
    QueueMessagePublisher,
    QueueNotFoundError,
    TopicNotFoundError,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded", "product_id": 1}


@dataclass(frozen=True)
class ProductAdded(EventMessage):
    product_id: int


@pytest.fixture
def driver(clock):
    return InMemoryDriver(clock=clock)


def bind(driver, queue_name="stock", topic_name="products"):
    return driver.declare_queue(queue_name, driver.declare_topic(topic_name))


def received(driver, queue):
    return [delivery.message for delivery in driver.receive(queue, 10, 0)]


def test_a_dict_travels_as_its_own_json_with_its_type_inside(driver):
    queue = bind(driver)

    message_id = ExchangeMessagePublisher("products", driver).publish({"product_id": 1}, "ProductAdded")

    [message] = received(driver, queue)
    assert message.message_id == message_id
    assert json.loads(message.body) == EVENT
    assert message.event_type_name == "ProductAdded"


def test_a_typed_event_travels_with_its_type_and_time(driver):
    queue = bind(driver)
    event = ProductAdded(7)

    ExchangeMessagePublisher("products", driver).publish(event)

    [message] = received(driver, queue)
    body = json.loads(message.body)
    assert body["product_id"] == 7
    assert body["event_type_name"] == "ProductAdded"
    assert datetime.fromisoformat(body["occurred_on"]) == event.occurred_on


def test_every_message_has_a_uuid_and_a_time(driver):
    queue = bind(driver)
    publisher = ExchangeMessagePublisher("products", driver)
    before = datetime.now(UTC)

    ids = publisher.publish_batch([EVENT] * 5)

    assert len(set(ids)) == 5
    for message in received(driver, queue):
        assert uuid.UUID(message.message_id).version == 4
        assert uuid.UUID(message.message_id).variant == uuid.RFC_4122
        assert before <= message.published_at <= datetime.now(UTC)


def test_the_callers_event_and_headers_stay_its_own(driver):
    queue = bind(driver)
    event, headers = {"product_id": 1, "tags": ["a"]}, {"trace": "t-1"}

    ExchangeMessagePublisher("products", driver).publish(event, "ProductAdded", headers=headers)
    assert event == {"product_id": 1, "tags": ["a"]}
    event["tags"].append("b")
    headers["trace"] = "changed"

    [message] = received(driver, queue)
    assert json.loads(message.body)["tags"] == ["a"]
    assert message.headers == {"trace": "t-1"}


def test_a_caller_may_set_the_message_id(driver):
    queue = bind(driver)

    assert ExchangeMessagePublisher("products", driver).publish(EVENT, message_id="order-7") == "order-7"

    assert [message.message_id for message in received(driver, queue)] == ["order-7"]


def test_on_fifo_the_message_id_deduplicates_unless_another_is_given(driver):
    queue = bind(driver, "stock.fifo", "products.fifo")
    publisher = ExchangeMessagePublisher("products.fifo", driver)

    for _ in range(2):
        publisher.publish(EVENT, message_id="same", message_group_id="a")
    for message_id in ("one", "two"):
        publisher.publish(EVENT, message_id=message_id, message_group_id="a", message_deduplication_id="d")

    assert [message.message_id for message in received(driver, queue)] == ["same", "one"]


def test_ids_of_a_batch_may_be_functions_of_the_event(driver):
    queue = bind(driver, "stock.fifo", "products.fifo")

    ExchangeMessagePublisher("products.fifo", driver).publish_batch(
        [{**EVENT, "product_id": number} for number in range(3)],
        message_id=lambda event: f"id-{event['product_id']}",
        message_group_id=lambda event: f"group-{event['product_id']}",
        message_deduplication_id=lambda event: f"dedup-{event['product_id']}",
    )

    messages = received(driver, queue)
    assert sorted(message.message_id for message in messages) == ["id-0", "id-1", "id-2"]
    assert sorted(message.message_group_id for message in messages) == ["group-0", "group-1", "group-2"]


def test_a_batch_may_be_any_iterable_and_empty(driver):
    queue = bind(driver)
    publisher = ExchangeMessagePublisher("products", driver)

    assert publisher.publish_batch(iter([])) == []
    assert len(publisher.publish_batch(event for event in [EVENT, EVENT])) == 2

    assert driver.measure_queue(queue).visible == 2


@pytest.mark.parametrize(
    ("event", "options", "error", "message"),
    [
        ({"product_id": 1}, {}, EncodeError, "event_type_name"),
        (EVENT, {"event_type_name": "Other"}, EncodeError, "Other"),
        ({**EVENT, "price": float("nan")}, {}, EncodeError, "price"),
        ({**EVENT, "name": "\ud800"}, {}, EncodeError, "surrogate"),
        ({**EVENT, "when": datetime.now(UTC)}, {}, EncodeError, "when"),
        ("text", {}, EncodeError, "text|str"),
        (None, {}, EncodeError, "None"),
        (EVENT, {"headers": {"melange-event-type": "x"}}, InvalidMessageError, "reserved"),
        (EVENT, {"headers": {"Melange-x": "x"}}, InvalidMessageError, "reserved"),
        (EVENT, {"headers": {"a b": "x"}}, InvalidMessageError, "header name 'a b'"),
        (EVENT, {"headers": {"AWS.trace": "x"}}, InvalidMessageError, "AWS"),
        (EVENT, {"headers": {"\u212aelvin": "x"}}, InvalidMessageError, "header name"),
        (EVENT, {"headers": {"": "x"}}, InvalidMessageError, "header name ''"),
        (EVENT, {"headers": {"x" * 257: "x"}}, InvalidMessageError, "256"),
        (EVENT, {"headers": {1: "x"}}, InvalidMessageError, "header name 1"),
        (EVENT, {"headers": {"retries": 3}}, InvalidMessageError, "must be text, not int"),
        (EVENT, {"headers": {"trace": "\x00"}}, InvalidMessageError, r"U\+0000"),
        (EVENT, {"headers": {"trace": "\ufffe"}}, InvalidMessageError, r"U\+FFFE"),
        (EVENT, {"message_id": ""}, InvalidMessageError, "message id ''"),
        (EVENT, {"message_id": "with space"}, InvalidMessageError, "message id"),
        (EVENT, {"message_id": 7}, InvalidMessageError, "message id 7"),
        (EVENT, {"message_group_id": "x" * 129}, InvalidMessageError, "message group id"),
        (EVENT, {"message_deduplication_id": "d"}, InvalidMessageError, "only FIFO topics"),
        ({**EVENT, "event_type_name": "x" * 257}, {}, InvalidMessageError, "256"),
    ],
)
def test_what_the_broker_would_refuse_is_refused_before_sending(driver, event, options, error, message):
    queue = bind(driver)

    with pytest.raises(error, match=message):
        ExchangeMessagePublisher("products", driver).publish(event, **options)

    assert driver.measure_queue(queue).visible == 0


def test_an_id_of_any_length_gives_a_short_error(driver):
    with pytest.raises(InvalidMessageError) as caught:
        ExchangeMessagePublisher("products", driver).publish(EVENT, message_id="x" * 1_000_000)

    assert len(str(caught.value)) < 1_000


def test_a_message_that_is_too_large_says_by_how_much(driver):
    bind(driver)

    with pytest.raises(MessageTooLargeError, match="262,144 are allowed") as caught:
        ExchangeMessagePublisher("products", driver).publish({**EVENT, "filler": "x" * 262_144})

    assert caught.value.size_bytes > caught.value.max_bytes == 262_144


def test_on_fifo_a_group_is_needed(driver):
    bind(driver, "stock.fifo", "products.fifo")

    with pytest.raises(InvalidMessageError, match="needs message_group_id="):
        ExchangeMessagePublisher("products.fifo", driver).publish(EVENT)


def test_one_bad_event_of_a_batch_keeps_the_others_from_being_sent(driver):
    queue = bind(driver)

    with pytest.raises(EncodeError):
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT, {**EVENT, "bad": object()}])

    assert driver.measure_queue(queue).visible == 0


class RefusesEverySecond(InMemoryDriver):
    """Accepts the messages at even places of a batch."""

    def publish(self, topic, messages):
        super().publish(topic, messages[::2])
        return [Failure(message, DriverConnectionError("too busy")) for message in messages[1::2]]


class RefusesAll(InMemoryDriver):
    def publish(self, topic, messages):
        return [Failure(message, DriverConnectionError("too busy")) for message in messages]


def test_a_half_failed_batch_says_what_succeeded_and_what_did_not():
    publisher = ExchangeMessagePublisher("products", RefusesEverySecond())

    with pytest.raises(PublishError, match="2 of 4 messages were not accepted") as caught:
        publisher.publish_batch(
            [{**EVENT, "id": letter} for letter in "abcd"], message_id=lambda event: event["id"]
        )

    assert caught.value.succeeded == ["a", "c"]
    assert [failure.item.message_id for failure in caught.value.failures] == ["b", "d"]
    assert {type(failure.error) for failure in caught.value.failures} == {DriverConnectionError}


class OutOfReach(InMemoryDriver):
    def publish(self, topic, messages):
        raise DriverConnectionError("out of reach")


def test_a_batch_that_did_not_get_through_at_all_is_reported_the_same_way():
    publisher = ExchangeMessagePublisher("products", OutOfReach())

    with pytest.raises(PublishError, match="2 of 2 messages were not accepted") as caught:
        publisher.publish_batch([EVENT] * 2)

    assert caught.value.succeeded == []
    assert isinstance(caught.value.__cause__, DriverConnectionError)


def test_a_single_failure_is_raised_as_itself():
    with pytest.raises(DriverConnectionError, match="too busy"):
        ExchangeMessagePublisher("products", RefusesAll()).publish(EVENT)


class CountsDeclarations(InMemoryDriver):
    declarations = 0

    def declare_topic(self, name, **options):
        self.declarations += 1
        return super().declare_topic(name, **options)


def test_a_topic_is_declared_once_by_any_number_of_threads():
    driver = CountsDeclarations()
    publisher = ExchangeMessagePublisher("products", driver)
    start = threading.Barrier(8)

    def publish():
        start.wait(timeout=30)
        publisher.publish(EVENT)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert driver.declarations == 1


def test_threads_that_need_a_topic_in_an_outage_wait_for_one_look_up_together():
    class Unavailable(InMemoryDriver):
        def __init__(self):
            super().__init__()
            self.look_ups = 0
            self.goes_on = threading.Event()

        def declare_topic(self, name, *, tags=None):
            self.look_ups += 1
            self.goes_on.wait()
            raise DriverConnectionError("unavailable")

    with Unavailable() as driver:
        publisher = ExchangeMessagePublisher("products", driver)
        entered, errors = [], []

        def publish():
            entered.append(True)
            try:
                publisher.publish({"event_type_name": "ProductAdded"})
            except DriverConnectionError as error:
                errors.append(error)

        threads = [threading.Thread(target=publish) for _ in range(10)]
        for thread in threads:
            thread.start()
        eventually(lambda: driver.look_ups and len(entered) == 10)
        driver.goes_on.set()
        for thread in threads:
            thread.join()

        assert len(errors) == 10
        assert driver.look_ups < 10


def test_a_topic_that_was_deleted_is_not_made_again_without_its_subscriptions(driver):
    publisher = ExchangeMessagePublisher("products", driver)
    publisher.publish(EVENT)
    driver.delete_topic(driver.get_topic("products"))

    for _ in range(2):
        with pytest.raises(TopicNotFoundError):
            publisher.publish(EVENT)

    driver.declare_topic("products")
    publisher.publish(EVENT)


def test_without_declaring_a_missing_topic_is_an_error_and_is_not_made(driver):
    publisher = ExchangeMessagePublisher("products", driver, declare=False)

    with pytest.raises(TopicNotFoundError):
        publisher.publish(EVENT)
    with pytest.raises(TopicNotFoundError):
        driver.get_topic("products")

    driver.declare_topic("products")
    assert publisher.publish(EVENT)


def test_a_publisher_follows_the_driver_in_use(monkeypatch):
    manager = DriverManager()
    monkeypatch.setattr(DriverManager, "instance", lambda: manager)
    publisher = ExchangeMessagePublisher("products")
    with pytest.raises(NoDriverError):
        publisher.publish(EVENT)

    for _ in range(2):
        driver = manager.use_driver(driver_name="memory")
        queue = bind(driver)
        publisher.publish(EVENT)
        assert driver.measure_queue(queue).visible == 1


@pytest.mark.parametrize("publisher_class", [ExchangeMessagePublisher, QueueMessagePublisher])
@pytest.mark.parametrize("name", [None, "", 5])
def test_a_destination_without_a_name_is_refused(publisher_class, name):
    with pytest.raises(InvalidNameError):
        publisher_class(name)


# --- to a queue ------------------------------------------------------------------------------------


def test_an_event_can_be_sent_to_one_queue(driver):
    stock, other = bind(driver, "stock"), bind(driver, "other")

    message_id = QueueMessagePublisher("stock", driver).send(EVENT, headers={"trace": "t"})

    [message] = received(driver, stock)
    assert message.message_id == message_id
    assert message.headers == {"trace": "t"}
    assert received(driver, other) == []


def test_a_batch_can_be_sent_to_one_queue(driver):
    queue = bind(driver)

    ids = QueueMessagePublisher("stock", driver).send_batch([EVENT] * 3)

    assert sorted(message.message_id for message in received(driver, queue)) == sorted(ids)


def test_a_sent_event_may_have_a_time(driver, clock):
    queue = driver.declare_queue("queue")
    publisher = QueueMessagePublisher("queue", driver)

    publisher.send(EVENT, deliver_at=clock.now() + timedelta(seconds=59.5))
    publisher.send_batch([EVENT], deliver_at=clock.now() - timedelta(seconds=1))
    at_once = driver.receive(queue, 10, 0)
    driver.acknowledge(at_once)
    clock.advance(59)
    early = driver.receive(queue, 10, 0)
    clock.advance(1)

    assert (len(at_once), early, len(driver.receive(queue, 10, 0))) == (1, [], 1)


def test_a_time_that_no_queue_keeps_names_the_outbox(driver, clock):
    driver.declare_queue("queue")

    with pytest.raises(InvalidMessageError, match=r"at most 900 s: use Outbox\.publish"):
        QueueMessagePublisher("queue", driver).send(EVENT, deliver_at=clock.now() + timedelta(hours=1))


def test_a_delay_that_queues_do_not_have_names_the_outbox(driver):
    with pytest.raises(ConfigurationError, match=r"at most 900.*Outbox\.publish"):
        QueueMessagePublisher("queue", driver).send(EVENT, delay_seconds=901)


@pytest.mark.parametrize("when", [{"deliver_at": datetime(2999, 1, 1)}, {"delay_seconds": 5, "deliver_at": datetime(2999, 1, 1, tzinfo=UTC)}])  # fmt: skip # noqa: DTZ001
def test_a_time_without_a_zone_or_beside_a_delay_is_refused(driver, when):
    driver.declare_queue("queue")

    with pytest.raises(ConfigurationError, match="deliver_at"):
        QueueMessagePublisher("queue", driver).send(EVENT, **when)


def test_a_sent_event_may_be_delayed(driver, clock):
    queue = bind(driver)
    publisher = QueueMessagePublisher("stock", driver)

    publisher.send(EVENT, delay_seconds=60)
    publisher.send_batch([EVENT], delay_seconds=60)

    assert received(driver, queue) == []
    clock.advance(60)
    assert len(received(driver, queue)) == 2


def test_the_queue_must_exist(driver):
    with pytest.raises(QueueNotFoundError, match="stock"):
        QueueMessagePublisher("stock", driver).send(EVENT)


def test_a_queue_that_was_made_later_is_found(driver):
    publisher = QueueMessagePublisher("stock", driver)
    with pytest.raises(QueueNotFoundError):
        publisher.send(EVENT)

    queue = bind(driver)
    publisher.send(EVENT)

    assert driver.measure_queue(queue).visible == 1
