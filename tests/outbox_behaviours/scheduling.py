"""Messages that are due later: published at their time, in the order of their times, unless they are cancelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from melange import DriverManager
from melange.errors import ConfigurationError
from melange.outbox import Outbox, OutboxAdministration
from outbox_behaviours.databases import TOPIC, named

UNREADABLE_TIMES = {
    "sqlite": ["yesterday", "2999-13-01 00:00:00"],
    "postgresql": ["infinity", "10000-01-01"],
}


class SchedulingBehaviours:
    @pytest.fixture(autouse=True)
    def in_use(self, driver, monkeypatch):
        """The driver in use has the clock by which delays count."""
        monkeypatch.setattr(DriverManager, "_instance", None)
        DriverManager.instance().use_driver(driver)

    @pytest.fixture
    def write(self, database):
        """Publish an event in a transaction of its own; the first letter of its name is its key."""

        def publish(name, **when):
            with Session(database.engine) as session, session.begin():
                return Outbox(session).publish(TOPIC, named(name), key=name[0], **when)

        return publish

    @pytest.fixture
    def scheduled(self, database, clock):
        return lambda: [
            one.message_id for one in OutboxAdministration(database.engine, clock=clock).scheduled()
        ]

    def test_it_is_published_at_its_time_and_not_before(self, write, driver, clock, relay_pending) -> None:
        write("a0", delay_seconds=3_600)

        relay_pending()
        clock.advance(3_599)
        relay_pending()
        early = list(driver.accepted)
        clock.advance(1)
        relay_pending()

        assert (early, driver.accepted) == ([], ["a0"])

    def test_a_time_of_any_zone_is_that_moment(self, write, driver, clock, relay_pending) -> None:
        write("a0", deliver_at=(clock.now() + timedelta(days=30)).astimezone())

        clock.advance(30 * 86_400 - 1)
        assert relay_pending() == 0
        clock.advance(1)

        assert relay_pending() == 1

    def test_a_time_that_cannot_be_read_holds_up_nothing(
        self, write, database, driver, clock, relay_pending
    ) -> None:
        for number, time in enumerate(UNREADABLE_TIMES[database.engine.dialect.name]):
            damaged = write("x0", delay_seconds=3_600)
            with database.engine.begin() as connection:
                change = (
                    f"UPDATE melange_outbox_scheduled SET due_at = '{time}' WHERE message_id = '{damaged}'"
                )
                connection.execute(text(change))
            write(f"a{number}", delay_seconds=60)
            database.write(f"b{number}")
            clock.advance(60)

            assert relay_pending() == 2

        assert sorted(driver.accepted) == ["a0", "a1", "b0", "b1"]

    def test_later_events_of_its_key_do_not_wait_for_it(self, write, driver, clock, relay_pending) -> None:
        write("a-later", delay_seconds=60)
        write("a-now")

        relay_pending()

        assert driver.accepted == ["a-now"]

    def test_what_became_due_meanwhile_leaves_in_the_order_of_the_times(
        self, write, driver, clock, relay_pending
    ) -> None:
        for name, delay_seconds in (("a3", 30), ("a1", 10), ("a2", 20)):
            write(name, delay_seconds=delay_seconds)
        write("a0")

        clock.advance(60)
        relay_pending()

        assert driver.accepted == ["a0", "a1", "a2", "a3"]

    def test_events_due_at_one_time_keep_the_order_in_which_they_were_written(
        self, database, driver, clock, relay_pending
    ) -> None:
        at = clock.now() + timedelta(minutes=5)
        names = [f"a{number}" for number in range(250)]  # more than move at once
        with Session(database.engine) as session, session.begin():
            for name in names:
                Outbox(session).publish(TOPIC, named(name), key="a", deliver_at=at)
        clock.advance(300)

        relay_pending()

        assert driver.accepted == names

    @pytest.mark.parametrize("when", [{"delay_seconds": 0}, {"deliver_at": datetime(2000, 1, 1, tzinfo=UTC)}])
    def test_what_is_due_already_is_not_scheduled(self, write, scheduled, relay_pending, when) -> None:
        write("a0", **when)

        assert scheduled() == []
        assert relay_pending() == 1

    def test_a_running_relay_publishes_it(self, write, driver, start_relay, eventually) -> None:
        start_relay()
        write("a0", delay_seconds=5)

        eventually(lambda: driver.accepted == ["a0"])

    def test_it_is_published_with_all_that_was_given(
        self, write, database, driver, clock, relay_pending
    ) -> None:
        with Session(database.engine) as session, session.begin():
            message_id = Outbox(session).publish(
                TOPIC, named("a0"), key="a", headers={"tenant": "north"}, message_id="a-0", delay_seconds=60
            )
        due_at = clock.now() + timedelta(seconds=60)
        clock.advance(90)

        relay_pending()

        assert message_id == "a-0"
        assert database.column("message_id") == ["a-0"]
        assert database.column("headers") == [{"tenant": "north"}]
        (published_at,) = database.column("published_at")
        assert published_at.replace(tzinfo=UTC) == due_at

    def test_it_is_scheduled_only_if_its_transaction_commits(self, database, scheduled) -> None:
        with Session(database.engine) as session:
            Outbox(session).publish(TOPIC, named("a0"), delay_seconds=60)
            session.flush()
            session.rollback()

        assert scheduled() == []

    def test_a_cancelled_one_is_never_published(self, write, database, driver, clock, relay_pending) -> None:
        message_id = write("a0", delay_seconds=60)
        write("a1", delay_seconds=60)

        with Session(database.engine) as session, session.begin():
            assert Outbox(session).cancel(message_id)
        clock.advance(60)
        relay_pending()

        assert driver.accepted == ["a1"]

    def test_it_can_be_cancelled_in_the_transaction_that_wrote_it(self, database, scheduled) -> None:
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            assert outbox.cancel(outbox.publish(TOPIC, named("a0"), delay_seconds=60))

        assert scheduled() == []

    def test_cancelling_takes_effect_only_if_its_transaction_commits(
        self, write, database, scheduled
    ) -> None:
        message_id = write("a0", delay_seconds=60)

        with Session(database.engine) as session:
            Outbox(session).cancel(message_id)
            session.rollback()

        assert scheduled() == [message_id]

    def test_what_is_on_its_way_cannot_be_cancelled(self, write, database, clock, relay_pending) -> None:
        message_id = write("a0", delay_seconds=60)
        clock.advance(60)
        relay_pending()

        with Session(database.engine) as session, session.begin():
            assert not Outbox(session).cancel(message_id)
            assert not Outbox(session).cancel("unknown")

    def test_an_administrator_sees_the_next_first_and_cancels(self, write, database, clock) -> None:
        administration = OutboxAdministration(database.engine, clock=clock)
        later, sooner = write("b0", delay_seconds=7_200), write("a0", delay_seconds=3_600)

        first, second = administration.scheduled()

        assert (first.message_id, second.message_id) == (sooner, later)
        assert (first.topic, first.key, first.event_type_name) == (TOPIC, "a", "Named")
        assert first.due_at == clock.now() + timedelta(hours=1)
        assert administration.cancel([sooner, "unknown"]) == 1
        assert [one.message_id for one in administration.scheduled()] == [later]

    @pytest.mark.parametrize(
        "when",
        [
            {"delay_seconds": -1},
            {"delay_seconds": float("nan")},
            {"delay_seconds": True},
            {"delay_seconds": 1e12},
            {"deliver_at": datetime(2999, 1, 1)},  # noqa: DTZ001 - it is refused
            {"deliver_at": "tomorrow"},
            {"delay_seconds": 1, "deliver_at": datetime(2999, 1, 1, tzinfo=UTC)},
        ],
    )
    def test_a_time_that_is_none_is_refused(self, write, scheduled, when) -> None:
        with pytest.raises(ConfigurationError, match=r"delay_seconds|deliver_at"):
            write("a0", **when)

        assert scheduled() == []

    def test_without_the_table_other_messages_are_published(
        self, write, database, driver, relay_pending, caplog
    ) -> None:
        write("a0")
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE melange_outbox_scheduled")

        assert relay_pending() == 1
        assert "scheduled messages cannot be read" in caplog.text

    def test_a_waiting_relay_learns_of_a_message_that_is_due_before_its_next_look(
        self, write, driver, clock, start_relay, eventually
    ) -> None:
        start_relay(poll_seconds=1)
        write("a0", delay_seconds=3_000)
        write("b0", delay_seconds=2)

        eventually(lambda: driver.accepted == ["b0"])
