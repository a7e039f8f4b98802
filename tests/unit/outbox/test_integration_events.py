"""A domain event that is published in a transaction is heard of outside if and only if that commits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from melange import DomainEventBus, EventMessage
from melange.domain import Subscribers
from melange.errors import ConfigurationError, EncodeError, InvalidMessageError
from melange.messages import Message, handled_message
from melange.outbox import IntegrationEvents, Outbox, OutboxMessage


@dataclass
class OrderPlaced:
    order_id: int


@dataclass
class RushOrderPlaced(OrderPlaced):
    pass


@dataclass
class OrderShipped(EventMessage):
    order_id: int


@pytest.fixture(autouse=True)
def no_groups_of_other_tests() -> None:
    """Have the groups of tests before collected: on every bus their events need an open outbox."""
    gc.collect()


@pytest.fixture
def bus() -> Iterator[DomainEventBus]:
    bus = DomainEventBus.instance()
    with bus.scope():
        yield bus


@pytest.fixture
def integration() -> IntegrationEvents:
    return IntegrationEvents()


@pytest.fixture
def committed(database, bus, integration):
    """Publish domain events in a transaction with the group and an outbox; return the rows that are there then."""

    def publish(*events: object, groups: tuple[Subscribers, ...] = ()) -> list[OutboxMessage]:
        with (
            Session(database.engine) as session,
            session.begin(),
            Outbox(session),
            bus.scope(*groups, integration),
        ):
            for event in events:
                bus.publish(event)
        return rows(database)

    return publish


def rows(database) -> list[OutboxMessage]:
    with Session(database.engine) as session:
        return list(session.scalars(select(OutboxMessage).order_by(OutboxMessage.id)))


def placed(event: OrderPlaced) -> dict[str, object]:
    return {"event_type_name": "OrderPlaced", "order_id": event.order_id}


def test_it_leaves_as_what_the_mapping_says_under_its_key(committed, integration):
    integration.to("orders", key=lambda event: event.order_id)(placed)

    @integration.to("shipping")
    def shipped(event: OrderPlaced) -> OrderShipped:
        return OrderShipped(event.order_id)

    first, second = committed(OrderPlaced(7))

    assert (first.topic, first.key, first.event_type_name) == ("orders", "7", "OrderPlaced")
    assert (second.topic, second.key, second.event_type_name) == ("shipping", None, "OrderShipped")
    assert first.message_id != second.message_id


def test_rolled_back_nothing_leaves(database, bus, integration):
    integration.to("orders")(placed)

    with Session(database.engine) as session, Outbox(session), bus.scope(integration):
        bus.publish(OrderPlaced(1))
        session.flush()
        session.rollback()
        bus.publish(OrderPlaced(2))
        session.commit()

    assert ['"order_id":2' in row.body.replace(" ", "") for row in rows(database)] == [True]


def test_savepoints_take_their_own_along(database, bus, integration):
    integration.to("orders", key=lambda event: event.order_id)(placed)

    with Session(database.engine) as session, session.begin(), Outbox(session), bus.scope(integration):
        bus.publish(OrderPlaced(1))
        savepoint = session.begin_nested()
        bus.publish(OrderPlaced(2))
        savepoint.rollback()
        bus.publish(OrderPlaced(3))

    assert [row.key for row in rows(database)] == ["1", "3"]


def test_none_is_nothing(committed, integration):
    @integration.to("orders", key=lambda event: event.order_id)
    def large_orders(event: OrderPlaced) -> dict[str, object] | None:
        return placed(event) if event.order_id > 1 else None

    assert [row.key for row in committed(OrderPlaced(1), OrderPlaced(2))] == ["2"]


def test_subclasses_are_heard_and_types_can_be_named(committed, integration):
    integration.to("orders", key=lambda event: type(event).__name__)(placed)

    @integration.to("rush", RushOrderPlaced)
    def rush(event):
        return {"event_type_name": "Rush"}

    topics = [row.topic for row in committed(OrderPlaced(1), RushOrderPlaced(2))]

    assert topics == ["orders", "orders", "rush"]


def test_one_function_serves_several_topics_and_can_be_called(committed, integration):
    decorated = integration.to("one")(integration.to("other")(placed))

    assert decorated is placed
    assert [row.topic for row in committed(OrderPlaced(1))] == ["other", "one"]


def test_without_an_open_outbox_the_publisher_is_told_which_mapping_wants_one(database, bus, integration):
    integration.to("orders")(placed)

    with (
        Session(database.engine) as session,
        session.begin(),
        bus.scope(integration),
        pytest.raises(ConfigurationError, match=r"test_integration_events\.placed .*with Outbox\(session\)"),
    ):
        bus.publish(OrderPlaced(1))


def logged(caplog) -> list[str]:
    """Return what integration events have logged: threads of tests before this one may log, too."""
    return [one.getMessage() for one in caplog.records if one.name == "melange.outbox.integration_events"]


class TestWithoutAnOpenOutbox:
    """An event of a mapped class is never lost without a word, whatever is subscribed where it is published."""

    def test_it_is_an_error_though_no_scope_opens_the_group(self, integration):
        integration.to("orders")(placed)

        with pytest.raises(ConfigurationError, match=r"OrderPlaced is mapped to topic orders by .*\.placed "):
            DomainEventBus.instance().publish(OrderPlaced(1))

    def test_it_is_an_error_in_another_thread_which_does_not_have_the_outbox(self, database, integration):
        integration.to("orders")(placed)
        bare_thread = ThreadPoolExecutor(1)

        with Session(database.engine) as session, Outbox(session).scope(integration):
            publish = bare_thread.submit(lambda: DomainEventBus.instance().publish(OrderPlaced(1)))

            with pytest.raises(ConfigurationError, match="no outbox is open"):
                publish.result()
        bare_thread.shutdown()

    def test_it_is_an_error_for_awaiting_publishers_subclasses_and_other_buses(self, integration):
        integration.to("orders")(placed)

        with pytest.raises(ConfigurationError, match="RushOrderPlaced is mapped to topic orders"):
            asyncio.run(DomainEventBus().publish_async(RushOrderPlaced(1)))

    def test_it_is_an_error_though_the_class_was_published_before_it_was_mapped(self, bus, integration):
        class Late: ...

        bus.publish(Late())
        integration.to("orders", Late)(placed)

        with pytest.raises(ConfigurationError, match="no outbox is open"):
            bus.publish(Late())

    def test_it_is_an_error_though_a_thread_maps_the_class_while_its_handlers_are_looked_for(
        self, bus, integration
    ):
        class Late: ...

        class MapsLate(type):
            """While handlers of ``Late`` are looked for, another thread maps it, and is done before they are found."""

            def __subclasscheck__(cls, subclass):
                if subclass is Late and not integration.mappings:
                    mapping = threading.Thread(target=lambda: integration.to("orders", Late)(placed))
                    mapping.start()
                    mapping.join()
                return super().__subclasscheck__(subclass)

        class Other(metaclass=MapsLate): ...

        others = IntegrationEvents()
        others.to("others", Other)(placed)
        with contextlib.suppress(ConfigurationError):
            bus.publish(Late())

        with pytest.raises(ConfigurationError, match="no outbox is open"):
            bus.publish(Late())

    def test_no_subscriber_is_called(self, bus, integration):
        integration.to("orders")(placed)
        told = []
        bus.on(OrderPlaced)(told.append)

        with pytest.raises(ConfigurationError):
            bus.publish(OrderPlaced(1))

        assert told == []

    @pytest.mark.parametrize("is_group_open", [True, False])
    def test_it_is_a_warning_on_request(self, bus, caplog, is_group_open):
        integration = IntegrationEvents(without_outbox="warn")
        integration.to("orders")(placed)

        with bus.scope(*[integration] * is_group_open):
            bus.publish(OrderPlaced(1))

        [message] = logged(caplog)
        assert "OrderPlaced is mapped to topic orders" in message
        assert message.endswith("it is lost")

    def test_what_else_is_requested_is_refused(self):
        with pytest.raises(ConfigurationError, match="'raise' or 'warn', not 'ignore'"):
            IntegrationEvents(without_outbox="ignore")

    def test_events_that_nobody_mapped_and_those_of_groups_that_are_gone_pass(self, bus, integration):
        class Cancelled: ...

        class RushCancelled(Cancelled): ...

        integration.to("orders", RushCancelled)(placed)
        bus.publish(Cancelled())
        gone = IntegrationEvents()
        gone.to("orders", Cancelled)(placed)

        del gone
        gc.collect()

        bus.publish(Cancelled())

    def test_a_recorded_event_is_not_lost(self, bus, integration):
        integration.to("orders")(placed)

        with bus.recording() as events:
            bus.publish(OrderPlaced(1))

        assert events == [OrderPlaced(1)]
        with pytest.raises(ConfigurationError):
            bus.publish(OrderPlaced(2))

    def test_an_open_outbox_without_the_group_is_told_once(self, database, bus, integration, caplog):
        integration.to("orders")(placed)

        with Session(database.engine) as session, Outbox(session):
            bus.publish(OrderPlaced(1))
            bus.publish(OrderPlaced(2))

        [message] = logged(caplog)
        assert "OrderPlaced is not published to topic orders: the group of" in message


def test_an_outbox_is_open_only_within_its_block_and_the_inner_one_counts(database, bus, integration):
    integration.to("orders", key=lambda event: event.order_id)(placed)

    with (
        Session(database.engine) as outer_session,
        Session(database.engine) as inner_session,
        bus.scope(integration),
    ):
        with Outbox(outer_session):
            with Outbox(inner_session):
                bus.publish(OrderPlaced(1))
            bus.publish(OrderPlaced(2))
        with pytest.raises(ConfigurationError):
            bus.publish(OrderPlaced(3))
        assert [len(session.new) for session in (outer_session, inner_session)] == [1, 1]


def test_a_group_is_heard_only_in_its_scope(database, bus, integration):
    integration.to("orders")(placed)

    with Session(database.engine) as session, session.begin(), Outbox(session):
        bus.publish(OrderPlaced(1))

    assert rows(database) == []


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        (lambda event: {"event_type_name": "X", "at": object()}, EncodeError),
        (lambda event: {"event_type_name": "X", "x": "x" * 300_000}, InvalidMessageError),
        (lambda event: 1 / 0, ZeroDivisionError),
    ],
    ids=["unwritable", "too large", "raising"],
)
def test_what_goes_wrong_reaches_the_publisher_within_the_transaction(
    database, bus, integration, mapping, error
):
    integration.to("orders", OrderPlaced)(mapping)

    with Session(database.engine) as session, session.begin(), Outbox(session) as outbox:
        with bus.scope(integration), pytest.raises(error):
            bus.publish(OrderPlaced(1))
        outbox.publish("orders", placed(OrderPlaced(2)))

    assert len(rows(database)) == 1


def test_a_mapping_has_to_say_its_part_at_once(integration):
    async def mapping(event: OrderPlaced) -> dict[str, object]:
        return placed(event)

    with pytest.raises(ConfigurationError, match=r"mapping .* is asynchronous"):
        integration.to("orders")(mapping)


def test_a_mapping_that_does_not_say_what_it_takes_is_refused(integration):
    with pytest.raises(ConfigurationError, match="annotat"):
        integration.to("orders")(lambda event: None)


def test_descriptions_name_the_function_that_was_written(integration):
    integration.to("orders")(placed)

    [names] = integration.describe().values()

    assert [name.endswith("placed") for name in names] == [True]
    assert "placed" in integration.graph()
    assert "write" not in integration.graph()


def test_deferred_events_are_written_when_their_block_ends_well(database, bus, integration):
    integration.to("orders", key=lambda event: event.order_id)(placed)

    with Session(database.engine) as session, session.begin(), Outbox(session), bus.scope(integration):
        with bus.deferred():
            bus.publish(OrderPlaced(1))
            assert not session.new
        with contextlib.suppress(LookupError), bus.deferred():
            bus.publish(OrderPlaced(2))
            raise LookupError

    assert [row.key for row in rows(database)] == ["1"]


def test_asynchronous_code_publishes_into_its_task_s_outbox(database, bus, integration):
    integration.to("orders", key=lambda event: event.order_id)(placed)

    async def request(engine, order_id: int) -> None:
        with bus.scope(integration):
            async with AsyncSession(engine) as session:
                with Outbox(session):
                    await asyncio.sleep(0)
                    await bus.publish_async(OrderPlaced(order_id))
                    await asyncio.sleep(0)
                    if order_id % 2:
                        await session.commit()

    async def main() -> None:
        engine = create_async_engine(database.async_url("sqlite+aiosqlite"))
        await asyncio.gather(*(request(engine, order_id) for order_id in range(6)))
        await engine.dispose()

    asyncio.run(main())

    assert sorted(row.key for row in rows(database)) == ["1", "3", "5"]


class TestTraces:
    MESSAGE = Message("cause", "{}", headers={"correlation-id": "root"})

    @pytest.fixture
    def handling(self):
        """Handle a message, as a listener does."""

        def handle(message: Message = self.MESSAGE) -> object:
            return handled_message.set(message)

        yield handle
        handled_message.set(None)

    def test_outside_of_everything_there_is_none(self, committed, integration):
        integration.to("orders")(placed)

        [row] = committed(OrderPlaced(1))

        assert row.headers is None

    def test_a_message_that_is_handled_is_the_cause_and_hands_its_correlation_on(
        self, database, committed, integration, handling
    ):
        integration.to("orders")(placed)
        handling()

        [by_mapping] = committed(OrderPlaced(1))
        with Session(database.engine) as session, session.begin():
            Outbox(session).publish("orders", placed(OrderPlaced(2)), headers={"mine": "x"})

        expected = {"correlation-id": "root", "causation-id": "cause"}
        assert by_mapping.headers == expected
        assert rows(database)[1].headers == {**expected, "mine": "x"}

    def test_without_a_correlation_the_cause_begins_it(self, committed, integration, handling):
        integration.to("orders")(placed)
        handling(Message("first", "{}"))

        [row] = committed(OrderPlaced(1))

        assert row.headers == {"correlation-id": "first", "causation-id": "first"}

    def test_what_the_publisher_says_counts(self, database, handling):
        handling()

        with Session(database.engine) as session, session.begin():
            Outbox(session).publish("orders", placed(OrderPlaced(1)), headers={"causation-id": "other"})

        assert rows(database)[0].headers == {"correlation-id": "root", "causation-id": "other"}

    def test_a_domain_event_is_the_cause_of_what_its_subscribers_publish(
        self, committed, integration, database, handling
    ):
        others = Subscribers()
        integration.to("orders")(placed)
        handling()

        @others.on
        def bill(event: OrderPlaced) -> None:
            Outbox.current().publish("bills", {"event_type_name": "Billed"})

        bill_row, order_row = committed(OrderPlaced(1), groups=(others,))

        assert (bill_row.topic, order_row.topic) == ("bills", "orders")
        assert bill_row.headers == {"correlation-id": "root", "causation-id": order_row.message_id}
        assert order_row.headers == {"correlation-id": "root", "causation-id": "cause"}

    def test_an_event_that_is_published_twice_is_two_messages(self, committed, integration):
        integration.to("orders")(placed)
        event = OrderPlaced(1)

        first, second = committed(event, event)

        assert first.message_id != second.message_id
