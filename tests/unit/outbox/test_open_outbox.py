"""An outbox that is open is the one of its thread, and of what waits for a commit."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

from melange import DomainEventBus
from melange.domain import Subscribers
from melange.errors import ConfigurationError, InvalidNameError
from melange.outbox import IntegrationEvents, Outbox
from outbox_behaviours.databases import Database

bus = DomainEventBus.instance()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with Session(database.engine) as session:
        yield session


def test_the_innermost_open_outbox_is_the_current_one(session: Session) -> None:
    outer, inner = Outbox(session), Outbox(session)

    with outer:
        with inner:
            within = Outbox.current()
        after = Outbox.current()

    assert within is inner
    assert after is outer


def test_where_none_is_open_there_is_no_current_one(session: Session) -> None:
    with Outbox(session):
        pass

    with pytest.raises(ConfigurationError, match=r"with Outbox\(session\)"):
        Outbox.current()


def test_a_task_that_outlives_the_block_has_no_outbox_any_more(session: Session) -> None:
    async def publish_late(ended: asyncio.Event) -> str:
        await ended.wait()
        return Outbox.current().publish("orders", {"event_type_name": "TooLate"})

    async def main() -> None:
        ended = asyncio.Event()
        with Outbox(session):
            late = asyncio.create_task(publish_late(ended))
            await asyncio.sleep(0)
        ended.set()
        await late

    with pytest.raises(ConfigurationError, match=r"with Outbox\(session\)"):
        asyncio.run(main())


def test_another_thread_does_not_see_the_outbox_of_this_one(session: Session) -> None:
    seen: list[str] = []

    def look() -> None:
        try:
            Outbox.current()
        except ConfigurationError:
            seen.append("none")

    with Outbox(session):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    assert seen == ["none"]


def test_handlers_for_after_the_commit_wait_for_the_transaction_of_the_outbox(session: Session) -> None:
    told: list[str] = []
    with Outbox(session), bus.scope():
        bus.on(str)(bus.after_commit(told.append))
        session.begin()
        bus.publish("placed")
        before = list(told)
        session.commit()

    assert before == []
    assert told == ["placed"]


def test_handlers_for_after_the_commit_never_run_when_it_is_rolled_back(session: Session) -> None:
    told: list[str] = []
    with Outbox(session), bus.scope():
        bus.on(str)(bus.after_commit(told.append))
        session.begin()
        bus.publish("placed")
        session.rollback()

    assert told == []


@pytest.mark.parametrize("order", [1, -1], ids=["mail first", "mapping first"])
@pytest.mark.parametrize("end", [Session.commit, Session.rollback])
def test_handlers_for_after_the_commit_wait_whatever_the_order_of_the_groups(
    session: Session, order: int, end: Callable[[Session], None]
) -> None:
    """The session begins its transaction with what is written first, which may be after the handler was called."""
    sent: list[str] = []
    mail, integration = Subscribers(), IntegrationEvents()
    mail.on(str)(bus.after_commit(sent.append))
    integration.to("orders", str)(lambda event: {"event_type_name": "Placed"})

    with Outbox(session).scope(*[mail, integration][::order]):
        bus.publish("placed")
        before = list(sent)
        end(session)

    assert before == []
    assert sent == (["placed"] if end is Session.commit else [])


def test_handlers_for_after_the_commit_wait_for_a_transaction_that_is_begun_later(session: Session) -> None:
    sent: list[str] = []
    mail = Subscribers()
    mail.on(str)(bus.after_commit(sent.append))

    with Outbox(session).scope(mail):
        bus.publish("first")
        bus.publish("second")
        with session.begin():
            bus.publish("third")
            before = list(sent)

    assert before == []
    assert sent == ["first", "second", "third"]


def test_domain_events_are_forgotten_while_the_outbox_is_open(session: Session) -> None:
    class Placed: ...

    integration = IntegrationEvents()
    integration.to("orders", Placed)(lambda event: {"event_type_name": "Placed"})
    alive: list[weakref.ref[Placed]] = []

    with Outbox(session).scope(integration):
        for _ in range(1_000):
            event = Placed()
            alive.append(weakref.ref(event))
            bus.publish(event)
        del event
        kept = sum(reference() is not None for reference in alive)

    assert kept <= 16


def test_an_outbox_that_is_left_in_another_thread_leaves_the_one_that_is_open_there(session: Session) -> None:
    left, other = Outbox(session), Outbox(session)
    seen: list[object] = []
    left.__enter__()

    def leave() -> None:
        with other:
            left.__exit__(None, None, None)
            seen.append(Outbox.current())

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()

    assert seen == [other]
    with pytest.raises(ConfigurationError):
        Outbox.current()


def test_an_outbox_around_one_that_was_left_elsewhere_is_the_current_one(session: Session) -> None:
    with Outbox(session) as outer:
        inner = Outbox(session)
        inner.__enter__()
        thread = threading.Thread(target=inner.__exit__, args=(None, None, None))
        thread.start()
        thread.join()

        assert Outbox.current() is outer


def test_what_was_subscribed_outside_is_heard_inside(session: Session) -> None:
    told: list[str] = []

    with bus.scope():
        bus.on(str)(told.append)
        with Outbox(session):
            bus.publish("placed")

    assert told == ["placed"]


def test_the_outbox_and_groups_are_opened_together(session: Session) -> None:
    told: list[str] = []
    group = Subscribers()
    group.on(str)(told.append)

    with Outbox(session).scope(group) as outbox:
        within = Outbox.current()
        bus.publish("inside")
    bus.publish("outside")

    assert within is outbox
    assert told == ["inside"]


@pytest.mark.parametrize("no_session", [None, "sqlite://", object()])
def test_what_is_no_session_is_refused_with_what_to_give(no_session: object) -> None:
    with pytest.raises(ConfigurationError, match=r"Session\(engine\)"):
        Outbox(no_session)


def test_a_mapping_needs_a_topic_that_can_be() -> None:
    integration = IntegrationEvents()

    def not_a_topic() -> None: ...

    with pytest.raises(InvalidNameError):
        integration.to(not_a_topic)
    with pytest.raises(InvalidNameError):
        integration.to("back office")


def test_a_mapping_without_annotation_is_told_how_to_name_the_event() -> None:
    integration = IntegrationEvents()

    with pytest.raises(ConfigurationError, match=r"to\('orders', OrderPlaced\)"):
        integration.to("orders")(lambda event: {})
