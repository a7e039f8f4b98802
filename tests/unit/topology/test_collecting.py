"""Which declarations of a program are found, and how they become a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from melange import (
    ConfigurationError,
    DriverManager,
    EventMessage,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    NoDriverError,
    QueueMessagePublisher,
    QueueOptions,
    ThreadedExchangeMessageConsumer,
    Worker,
)
from melange.drivers.aws import AwsDriver
from melange.drivers.base import EventFilter
from melange.drivers.memory import InMemoryDriver
from melange.large_events import LargeEvents, MemoryStore, S3Store
from melange.outbox import IntegrationEvents
from melange.topology import (
    DeclaredBinding,
    DeclaredListener,
    DeclaredPublisher,
    Publication,
    Topology,
    collect,
    combined,
    from_document,
    of,
    to_document,
)


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: int


class OrderConfirmed:
    """A domain event."""


class Ship(ExchangeListener):
    timeout_seconds = 5

    def process(self, event):
        pass

    def listens_to(self):
        return [OrderPlaced]


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    monkeypatch.setattr(DriverManager, "_instance", None)
    with InMemoryDriver() as driver:
        DriverManager.instance().use_driver(driver)
        yield driver


def test_consumers_become_queues_with_bindings_listeners_and_dead_letters():
    def declare():
        consumer = ExchangeMessageConsumer(
            "shipping", "orders", filter_events=[OrderPlaced], timeout_seconds=9
        )
        consumer.subscribe(Ship())
        consumer.listener(name="audit")(print)

    topology = collect("shop", declare).topology

    queue = topology.queue("shipping")
    assert queue.bindings == (DeclaredBinding("orders", EventFilter(("OrderPlaced",))),)
    assert queue.listeners == (
        DeclaredListener("Ship", ("OrderPlaced",), 5),
        DeclaredListener("audit", (), 9),
    )
    assert queue.dead_letter_queue == "shipping-dlq"
    assert topology.queue("shipping-dlq").dead_letters_of == ("shipping",)
    assert [topic.name for topic in topology.topics] == ["orders"]


def test_publishers_and_outbox_routes_say_what_is_published():
    def declare():
        ExchangeMessagePublisher("orders", event_types=["OrderPaid"])
        QueueMessagePublisher("emails")
        integration = IntegrationEvents()

        @integration.to("orders", OrderConfirmed)
        def confirmed(event) -> OrderPlaced | None:
            return None

        Publication("returns", "OrderReturned")

    topology = collect("shop", declare).topology

    assert topology.topic("orders").event_types == ("OrderPaid", "OrderPlaced")
    assert topology.topic("returns").event_types == ("OrderReturned",)
    assert DeclaredPublisher("emails", "queue publisher") in topology.publishers
    assert topology.topic("emails") is None


def test_a_route_that_does_not_say_its_type_leaves_the_types_unknown():
    def declare():
        ExchangeMessagePublisher("orders", event_types=["OrderPaid"])

        @IntegrationEvents().to("orders", OrderConfirmed)
        def confirmed(event) -> dict[str, object]:
            return {}

    # The group is held by the collection.
    assert collect("shop", declare).topology.topic("orders").event_types is None


def test_nothing_is_declared_at_the_broker(driver):
    collect("shop", lambda: ExchangeMessageConsumer("shipping", "orders"))

    assert driver.inspection().queue("shipping") is None
    assert driver.inspection().topic("orders") is None


def test_objects_that_exist_already_can_be_given():
    shipping, audit = ExchangeMessageConsumer("shipping", "orders"), ThreadedExchangeMessageConsumer("audit")
    shipping.subscribe(Ship())

    topology = of("shop", [Worker(shipping)], audit, ExchangeMessagePublisher("orders")).topology

    assert [queue.name for queue in topology.queues] == ["audit", "audit-dlq", "shipping", "shipping-dlq"]


def test_two_consumers_of_one_queue_are_one_queue():
    def declare():
        for topic in ("orders", "returns"):
            ExchangeMessageConsumer("shipping", topic)

    queue = collect("shop", declare).topology.queue("shipping")

    assert [binding.topic for binding in queue.bindings] == ["orders", "returns"]


@pytest.mark.parametrize(
    "differently", [{"filter_events": ["A"]}, {"queue": QueueOptions(dead_letter_queue_name="failures")}]
)
def test_declarations_of_one_queue_that_contradict_each_other_are_refused(differently):
    def declare():
        ExchangeMessageConsumer("shipping", "orders")
        ExchangeMessageConsumer("shipping", "orders", **differently)

    with pytest.raises(ConfigurationError, match="twice"):
        collect("shop", declare)


def test_a_program_that_declares_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="nothing was declared"):
        collect("shop", lambda: None)


def test_a_program_without_a_driver_is_refused(monkeypatch):
    monkeypatch.setattr(DriverManager, "_instance", None)

    with pytest.raises(NoDriverError):
        collect("shop", lambda: ExchangeMessagePublisher("orders"))


def test_consumers_with_different_prefixes_are_refused():
    def declare():
        for prefix in ("", "staging-"):
            ExchangeMessageConsumer("shipping", driver=InMemoryDriver(prefix=prefix))

    with pytest.raises(ConfigurationError, match="prefixes"):
        collect("shop", declare)


def aws_driver(**options: Any) -> AwsDriver:
    return AwsDriver(**{"region_name": "eu-west-1", "endpoint_url": "http://localhost:1"} | options)


@pytest.mark.parametrize(
    "drivers",
    [
        lambda: [InMemoryDriver(), InMemoryDriver()],
        lambda: [aws_driver(), aws_driver(region_name="eu-west-2")],
        lambda: [aws_driver(), aws_driver(endpoint_url="http://localhost:2")],
        lambda: [aws_driver(), aws_driver(session=boto3.Session())],
        lambda: [
            LargeEvents(aws_driver(), MemoryStore()),
            LargeEvents(aws_driver(region_name="eu-west-2"), MemoryStore()),
        ],
        lambda: [LargeEvents(aws_driver(), S3Store(bucket)) for bucket in ("ours", "theirs")],
    ],
    ids=["memory", "region", "endpoint", "session", "region of large events", "bucket"],
)
def test_consumers_at_different_brokers_are_refused(drivers):
    def declare():
        for driver in drivers():
            ExchangeMessageConsumer("shipping", driver=driver)

    with pytest.raises(ConfigurationError, match="different drivers, brokers or prefixes"):
        collect("shop", declare)


def test_two_drivers_of_one_broker_have_one_topology():
    def declare():
        for name in ("shipping", "billing"):
            ExchangeMessageConsumer(name, driver=LargeEvents(aws_driver(), S3Store("ours")))

    topology = collect("shop", declare).topology

    assert {queue.name for queue in topology.queues} >= {"shipping", "billing"}


def test_after_collecting_consumers_declare_again(driver):
    collect("shop", lambda: ExchangeMessageConsumer("shipping"))

    assert ExchangeMessageConsumer("shipping").queue == driver.get_queue("shipping")


def test_a_document_has_the_whole_model():
    def declare():
        consumer = ExchangeMessageConsumer(
            "shipping", "orders", filter_events=[OrderPlaced], queue=QueueOptions(tags={"team": "x"})
        )
        consumer.subscribe(Ship())
        ExchangeMessagePublisher("orders", event_types=[OrderPlaced])

    topology = collect("shop", declare).topology

    assert from_document(to_document(topology)) == topology


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"melange_topology": 2}, {"melange_topology": 1}, {"melange_topology": 1, "name": "a", "prefix": "", "topics": [1], "queues": [], "publishers": []}],
)  # fmt: skip
def test_what_is_not_a_topology_is_refused(document):
    with pytest.raises(ConfigurationError, match="export --format json"):
        from_document(document)


def test_topologies_of_different_prefixes_are_not_combined():
    with pytest.raises(ConfigurationError, match="different prefixes"):
        combined("shop", [Topology("a"), Topology("b", "staging-")])
