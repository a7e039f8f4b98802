"""What happened: typed events, and failures that show the causes."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

from melange import (
    EventMessage,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
    Reject,
    RetryPolicy,
)
from melange.cqrs import Command, CommandBus


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str


@dataclass(frozen=True)
class OrderPacked(EventMessage):
    order_id: str


@dataclass(frozen=True)
class PlaceOrder(Command):
    order_id: str


commands = CommandBus()


@commands.handler
def place_order(command: PlaceOrder) -> None:
    ExchangeMessagePublisher("orders").publish(OrderPlaced(command.order_id))


class Pack(ExchangeListener):
    def process(self, event: OrderPlaced) -> None:
        if event.order_id == "2":
            raise KeyError(event.order_id)
        if event.order_id == "3":
            raise Reject("out of stock")
        ExchangeMessagePublisher("warehouse").publish(OrderPacked(event.order_id))

    def listens_to(self):
        return [OrderPlaced]


@pytest.fixture
def application(harness):
    warehouse = ExchangeMessageConsumer("warehouse", "orders", retry=RetryPolicy(backoff=lambda _: 60))
    warehouse.subscribe(Pack())
    mails = ExchangeMessageConsumer("mails", "warehouse")

    @mails.listener(OrderPacked)
    def mail(event):
        pass

    return mail


def test_published_returns_typed_events(harness) -> None:
    for order_id in ("1", "2"):
        commands.send(PlaceOrder(order_id))

    assert harness.published(OrderPlaced) == [OrderPlaced("1"), OrderPlaced("2")]
    assert harness.published(OrderPlaced, where=lambda event: event.order_id == "2") == [OrderPlaced("2")]
    assert [event["order_id"] for event in harness.published("OrderPlaced")] == ["1", "2"]


def test_what_is_sent_to_a_queue_is_published_too(harness) -> None:
    ExchangeMessageConsumer("warehouse")

    QueueMessagePublisher("warehouse").send(OrderPlaced("1"))

    assert harness.published(OrderPlaced) == [OrderPlaced("1")]


@pytest.mark.usefixtures("application")
@pytest.mark.parametrize(
    "which", [Pack, "Pack", OrderPlaced, "OrderPlaced"], ids=["class", "name", "event class", "event name"]
)
def test_handled_and_failed_know_listeners_and_events(harness, which) -> None:
    for order_id in ("1", "2", "3"):
        commands.send(PlaceOrder(order_id))

    harness.settle()

    assert harness.handled(which) == [OrderPlaced("1")]
    assert harness.failed(which) == [OrderPlaced("2"), OrderPlaced("3")]


def test_a_listener_is_named_by_its_function_too(harness, application) -> None:
    commands.send(PlaceOrder("1"))

    harness.settle()

    assert harness.handled(application) == [OrderPacked("1")]


@pytest.mark.usefixtures("application")
def test_a_failure_shows_a_tree_of_causes(harness) -> None:
    for order_id in ("1", "2", "3"):
        commands.send(PlaceOrder(order_id))
    harness.settle()

    with pytest.raises(AssertionError) as raised:
        harness.dead_lettered(OrderPacked)

    assert str(raised.value) == textwrap.dedent("""\
        OrderPacked was not dead-lettered. What happened:

        PlaceOrder(order_id='1') (command)
        └─ OrderPlaced(order_id='1') to orders
           └─ Pack on warehouse: handled
              └─ OrderPacked(order_id='1') to warehouse
                 └─ application.<locals>.mail on mails: handled
        PlaceOrder(order_id='2') (command)
        └─ OrderPlaced(order_id='2') to orders
           └─ Pack on warehouse: failed, retried after 60 s: KeyError: '2'
        PlaceOrder(order_id='3') (command)
        └─ OrderPlaced(order_id='3') to orders
           ├─ Pack on warehouse: rejected: out of stock
           └─ dead-lettered from warehouse: out of stock
        queue warehouse: 1 due later, call advance()
        """)


@pytest.mark.usefixtures("application")
def test_a_failure_says_when_the_harness_was_not_settled(harness) -> None:
    commands.send(PlaceOrder("1"))

    with pytest.raises(AssertionError, match=r"queue warehouse: 1 visible, call settle\(\)"):
        harness.handled(OrderPlaced)


@pytest.mark.parametrize(
    "look",
    [
        lambda harness: harness.published(OrderPacked),
        lambda harness: harness.published(OrderPlaced, where=lambda event: event.order_id == "7"),
        lambda harness: harness.handled(OrderPlaced),
        lambda harness: harness.failed(OrderPlaced),
        lambda harness: harness.dead_lettered(OrderPlaced),
        lambda harness: harness.nothing_published(),
        lambda harness: harness.nothing_published(OrderPlaced),
    ],
    ids=["published", "where", "handled", "failed", "dead-lettered", "nothing", "nothing of a type"],
)
def test_what_is_not_so_is_an_assertion_error(harness, look) -> None:
    commands.send(PlaceOrder("1"))

    with pytest.raises(AssertionError, match="What happened"):
        look(harness)


def test_nothing_published_may_be_about_one_type(harness) -> None:
    harness.nothing_published()
    commands.send(PlaceOrder("1"))

    harness.nothing_published(OrderPacked)
    harness.nothing_published(OrderPlaced, where=lambda event: event.order_id == "2")


def test_nothing_published_may_be_about_some_events_of_all_types(harness) -> None:
    ExchangeMessagePublisher("orders").publish({"number": 1}, "OrderCancelled")

    harness.nothing_published(where=lambda event: event["number"] == 2)
    with pytest.raises(AssertionError, match="nothing should have been published as `where` wants it"):
        harness.nothing_published(where=lambda event: event["number"] == 1)


@pytest.mark.usefixtures("application")
def test_nothing_failed_shows_what_did(harness) -> None:
    harness.nothing_failed()
    commands.send(PlaceOrder("2"))
    harness.settle()

    with pytest.raises(AssertionError, match="1 runs of listeners failed"):
        harness.nothing_failed()


def test_a_malformed_message_is_dead_lettered_and_does_not_disturb(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders", queue=QueueOptions(on_unhandled="reject"))
    consumer.listener("Other")(lambda event: None)
    commands.send(PlaceOrder("1"))

    harness.settle()

    assert harness.dead_lettered(OrderPlaced) == [OrderPlaced("1")]


@pytest.mark.usefixtures("application")
def test_commands_within_listeners_have_their_place(harness) -> None:
    consumer = ExchangeMessageConsumer("again", "warehouse")

    @consumer.listener(OrderPacked)
    def order_again(event):
        if len(event.order_id) < 2:
            commands.send(PlaceOrder(event.order_id * 2))

    commands.send(PlaceOrder("1"))
    harness.settle()

    lines = harness.what_happened().splitlines()
    again = next(line for line in lines if "PlaceOrder(order_id='11')" in line)
    assert again.strip("│├└─ ") == "PlaceOrder(order_id='11') (command)"
    assert lines.count("PlaceOrder(order_id='1') (command)") == 1
