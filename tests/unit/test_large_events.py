"""Large events in memory: what is stored, what a stranger's pointer cannot do, and a store that is out of reach."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from melange import (
    ConfigurationError,
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    InvalidMessageError,
    MessageTooLargeError,
    PublishError,
    QueueMessagePublisher,
    QueueOptions,
    Reject,
)
from melange.drivers.inspection import Inspectable
from melange.drivers.memory import InMemoryDriver
from melange.large_events import DirectoryStore, LargeEvents, MemoryStore, PayloadMissingError
from melange.messages import Message
from melange.testing import ManualClock

LARGE = {"event_type_name": "Imported", "rows": "x" * 2_000_000}
POINTER = "software.amazon.payloadoffloading.PayloadS3Pointer"


class UnavailableStore(MemoryStore):
    """A store that can be out of reach."""

    is_away = False

    def put(self, key: str, payload: bytes) -> None:
        if self.is_away:
            raise DriverConnectionError("the store is out of reach")
        super().put(key, payload)

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        if self.is_away:
            raise DriverConnectionError("the store is out of reach")
        return super().get(bucket, key, max_bytes)


@pytest.fixture
def store() -> UnavailableStore:
    return UnavailableStore()


def driver_with(store: Any, **options: Any) -> LargeEvents:
    return LargeEvents(InMemoryDriver(clock=ManualClock()), store, **options)


def consumer_on(driver: LargeEvents, seen: list[Any], *topics: str) -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer("stock", *topics, driver=driver, queue=QueueOptions(wait_seconds=0))
    consumer.listener("Imported", name="collect")(seen.append)
    return consumer


def reason(driver: LargeEvents) -> str:
    """Return why the only dead letter is one."""
    (delivery,) = driver.receive(driver.get_queue("stock-dlq"), 10, 0)
    return delivery.message.headers["melange-dead-letter"]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_a_large_event_travels_through_the_store(store: UnavailableStore, compression: Any) -> None:
    seen: list[Any] = []
    with driver_with(store, compression=compression) as driver:
        consumer = consumer_on(driver, seen, "imports")

        message_id = ExchangeMessagePublisher("imports", driver).publish(LARGE, headers={"tenant": "north"})
        consumer.consume_event()

    assert seen == [LARGE]
    ((_, key),) = store.payloads
    assert key.startswith(f"melange/topics/imports/{message_id}-")
    assert (len(store.payloads["memory", key]) < 50_000) == (compression is not None)


def test_small_events_are_not_stored(store: UnavailableStore) -> None:
    with driver_with(store) as driver:
        queue = driver.declare_queue("stock")

        driver.send(queue, [Message("one", "x" * (queue.max_message_bytes - 100))])

        assert store.payloads == {}
        assert driver.receive(queue, 1, 0)[0].received is None


def test_a_threshold_may_be_lower_than_the_limit(store: UnavailableStore) -> None:
    with driver_with(store, threshold_bytes=100) as driver:
        queue = driver.declare_queue("stock")

        driver.send(queue, [Message("small", "{}"), Message("large", "x" * 100)])

        assert len(store.payloads) == 1
        assert sorted(one.message.body for one in driver.receive(queue, 10, 0)) == ["x" * 100, "{}"]


def test_headers_come_back_without_those_of_the_pointer(store: UnavailableStore) -> None:
    with driver_with(store, threshold_bytes=0) as driver:
        queue = driver.declare_queue("stock")
        message = Message("one", "{}", headers={"tenant": "north"})

        driver.send(queue, [message])

        assert driver.receive(queue, 1, 0)[0].message._replace(published_at=None) == message


def test_payloads_are_shared_through_a_directory(tmp_path: Any) -> None:
    store = DirectoryStore(tmp_path / "payloads")
    seen: list[Any] = []
    with driver_with(store) as driver:
        consumer = consumer_on(driver, seen)
        QueueMessagePublisher("stock", driver).send(LARGE)

        consumer.consume_event()

    assert seen == [LARGE]
    (file,) = (tmp_path / "payloads").iterdir()
    assert file.stat().st_size > 2_000_000


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../../secret", "..", "", "\ud800", "a\0b"])
def test_no_key_leads_out_of_the_directory(tmp_path: Any, key: str) -> None:
    (tmp_path / "secret").write_text("secret")
    store = DirectoryStore(tmp_path / "payloads")

    with pytest.raises(PayloadMissingError):
        store.get("payloads", key, 100)
    store.put(key, b"x")
    assert store.get("payloads", key, 100) == b"x"
    store.delete("payloads", key)

    assert [path.name for path in tmp_path.iterdir()] != []
    assert (tmp_path / "secret").read_text() == "secret"


def pointer(bucket: str = "memory", key: str = "key", name: str = POINTER) -> str:
    return json.dumps([name, {"s3BucketName": bucket, "s3Key": key}])


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        (pointer(bucket="other"), {}, "bucket is not one of those that may be read"),
        (pointer(key="none"), {}, "no such payload"),
        (pointer(name="java.lang.Runtime"), {}, "another form"),
        ('["a"]', {}, "another form"),
        ("{", {}, "not JSON"),
        ("[" * 100_000, {}, "not JSON"),
        (pointer(), {"ExtendedPayloadSize": "many"}, "size is not a number"),
        (pointer(), {"ExtendedPayloadSize": "²"}, "size is not a number"),
        (pointer(), {"ExtendedPayloadSize": "5000"}, "more than 1,000 bytes"),
        (pointer(key="huge"), {}, "more than 1,000 bytes"),
        (pointer(key="bomb"), {"extended-payload-encoding": "gzip"}, "more than 1,000 bytes"),
        (pointer(), {"extended-payload-encoding": "gzip"}, "not gzip"),
        (pointer(), {"extended-payload-encoding": "zstd"}, "not zstd"),
        (pointer(), {"extended-payload-encoding": "pickle"}, "neither gzip nor zstd"),
        (pointer(), {"extended-payload-sha256": "0" * 64}, "SHA-256"),
        (pointer(key="binary"), {}, "not UTF-8"),
    ],
)
def test_a_pointer_that_cannot_be_followed_is_dead_lettered_with_the_reason(
    store: UnavailableStore, body: str, headers: dict[str, str], problem: str
) -> None:
    payloads = {"key": b"{}", "huge": b"x" * 1_001, "bomb": gzip.compress(b"x" * 10**6), "binary": b"\xff"}
    store.payloads.update({("memory", key): payload for key, payload in payloads.items()})
    seen: list[Any] = []
    with driver_with(store, max_bytes=1_000) as driver:
        consumer = consumer_on(driver, seen)
        message = Message("one", body, "Imported", headers={"ExtendedPayloadSize": "2", **headers})
        driver._driver.send(driver.get_queue("stock"), [message])

        consumer.consume_event()

        assert problem in reason(driver)
    assert seen == []


def test_other_buckets_are_read_if_they_are_listed(store: UnavailableStore) -> None:
    store.payloads["theirs", "key"] = b'{"event_type_name": "Imported"}'
    seen: list[Any] = []
    with driver_with(store, readable_buckets=["theirs"], delete_after_acknowledge=True) as driver:
        consumer = consumer_on(driver, seen)
        message = Message("one", pointer(bucket="theirs"), headers={"SQSLargePayloadSize": "31"})
        driver._driver.send(driver.get_queue("stock"), [message])

        consumer.consume_event()

    assert seen == [{"event_type_name": "Imported"}]
    assert list(store.payloads) == [("theirs", "key")]


def test_a_malformed_pointer_is_dead_lettered_as_it_was_received(store: UnavailableStore) -> None:
    with driver_with(store) as driver:
        consumer = consumer_on(driver, [])
        message = Message("one", "{}", "Imported", headers={"ExtendedPayloadSize": "2"})
        driver._driver.send(driver.get_queue("stock"), [message])

        consumer.consume_event()

        (delivery,) = driver._driver.receive(driver.get_queue("stock-dlq"), 1, 0)
        assert (delivery.message.body, delivery.message.content_type) == ("{}", "application/json")


def test_a_pointer_of_a_stranger_deletes_no_payload_of_another_queue(store: UnavailableStore) -> None:
    key = "melange/queues/other/one"
    store.payloads["memory", key] = b'{"event_type_name": "Imported"}'
    seen: list[Any] = []
    with driver_with(store, delete_after_acknowledge=True) as driver:
        consumer = consumer_on(driver, seen)
        message = Message("one", pointer(key=key), headers={"ExtendedPayloadSize": "31"})
        driver._driver.send(driver.get_queue("stock"), [message])

        consumer.consume_event()

    assert len(seen) == 1
    assert list(store.payloads) == [("memory", key)]


def test_a_body_that_only_looks_like_a_pointer_is_data(store: UnavailableStore) -> None:
    with driver_with(store) as driver:
        queue = driver.declare_queue("stock")

        driver.send(queue, [Message("one", pointer())])

        assert driver.receive(queue, 1, 0)[0].message.body == pointer()


def test_nothing_is_published_without_its_payload(store: UnavailableStore) -> None:
    store.is_away = True
    with driver_with(store) as driver:
        queue = driver.declare_queue("stock", driver.declare_topic("imports"))
        publisher = ExchangeMessagePublisher("imports", driver)

        with pytest.raises(DriverConnectionError, match="out of reach"):
            publisher.publish(LARGE)
        with pytest.raises(PublishError) as caught:
            publisher.publish_batch([LARGE, {"event_type_name": "Imported"}])

        assert len(caught.value.succeeded) == 1
        assert len(driver.receive(queue, 10, 0)) == 1


def test_a_failed_upload_stops_the_rest_on_fifo(store: UnavailableStore) -> None:
    store.is_away = True
    with driver_with(store, threshold_bytes=1_000) as driver:
        queue = driver.declare_queue("stock.fifo")
        messages = [
            Message(str(n), body, message_group_id="a", message_deduplication_id=str(n))
            for n, body in enumerate(["{}", "x" * 1_000, "{}"])
        ]

        failures = driver.send(queue, messages)

        assert [failure.item for failure in failures] == messages[1:]
        assert [one.message.message_id for one in driver.receive(queue, 10, 0)] == ["0"]


def test_messages_stay_in_their_queue_while_the_store_is_out_of_reach(store: UnavailableStore) -> None:
    with driver_with(store, threshold_bytes=1_000) as driver:
        queue = driver.declare_queue("stock.fifo")
        for n, body in enumerate(["x" * 1_000, "{}", "other"]):
            group = "a" if n < 2 else "b"
            driver.send(
                queue, [Message(str(n), body, message_group_id=group, message_deduplication_id=str(n))]
            )
        store.is_away = True

        first = driver.receive(queue, 10, 0)
        driver.acknowledge(first)
        waiting = driver.receive(queue, 10, 0)
        store.is_away = False
        assert isinstance(driver.clock, ManualClock)
        driver.clock.advance(31)
        then = driver.receive(queue, 10, 0)

    assert [one.message.body for one in first] == ["other"]
    assert waiting == []
    assert [one.message.body for one in then] == ["x" * 1_000, "{}"]


def test_a_receive_of_nothing_else_reports_the_store(store: UnavailableStore) -> None:
    with driver_with(store) as driver:
        driver.send(driver.declare_queue("stock"), [Message("one", "x" * 2_000_000)])
        store.is_away = True

        with pytest.raises(DriverConnectionError, match="out of reach"):
            driver.receive(driver.get_queue("stock"), 1, 0)


def test_a_dead_letter_keeps_its_payload(store: UnavailableStore) -> None:
    with driver_with(store, delete_after_acknowledge=True) as driver:
        consumer = ExchangeMessageConsumer("stock", driver=driver, queue=QueueOptions(wait_seconds=0))

        @consumer.listener("Imported", name="failing")
        def failing(event: Any) -> None:
            raise Reject("no")

        QueueMessagePublisher("stock", driver).send(LARGE)
        consumer.consume_event()

        (delivery,) = driver.receive(driver.get_queue("stock-dlq"), 1, 0)
        assert json.loads(delivery.message.body) == LARGE


def test_what_cannot_be_sent_is_refused_before_it_is_stored(store: UnavailableStore) -> None:
    with driver_with(store, max_bytes=3_000_000) as driver:
        queue = driver.declare_queue("stock")

        with pytest.raises(MessageTooLargeError):
            driver.send(queue, [Message("one", "x" * 2_000_000), Message("two", "x" * 3_000_001)])
        with pytest.raises(InvalidMessageError, match="belongs to large events"):
            driver.send(queue, [Message("one", "{}", headers={"ExtendedPayloadSize": "5"})])

        assert store.payloads == {}


def test_too_large_without_it_names_the_way_out() -> None:
    with InMemoryDriver() as driver:
        driver.declare_topic("imports")

        with pytest.raises(MessageTooLargeError, match=r"melange\.large_events.*melange\[s3\]"):
            ExchangeMessagePublisher("imports", driver).publish(LARGE)


def test_the_broker_can_be_inspected_through_it(store: UnavailableStore) -> None:
    with driver_with(store) as driver:
        driver.declare_queue("stock")

        assert isinstance(driver, Inspectable)
        assert driver.inspection().queue("stock") is not None


@pytest.mark.parametrize("options", [{"compression": "brotli"}, {"readable_buckets": "one"}])
def test_wrong_options_are_reported(store: UnavailableStore, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        driver_with(store, **options)
