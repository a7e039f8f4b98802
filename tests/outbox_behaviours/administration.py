"""What an outbox tells about itself, what can be decided about it, and what is thrown away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from melange.errors import InvalidMessageError, OutboxError
from melange.outbox import OutboxAdministration, metadata
from melange.outbox.tables import OutboxMessage
from outbox_behaviours.databases import Database

REFUSAL = InvalidMessageError("not this one")
HOUR_SECONDS = 3_600


@pytest.fixture
def administration(database: Database) -> OutboxAdministration:
    return OutboxAdministration(database.engine)


class AdministrationBehaviours:
    def test_the_status_counts_by_topic_what_waits_and_nothing_that_left(
        self, database, driver, relay_pending, administration
    ):
        before = datetime.now(UTC)
        database.write("a0", "a1", "a2", "b0", topic="orders")
        driver.judge = lambda topic, name: REFUSAL if name == "a0" else None
        relay_pending()
        database.write("c0", "c1", topic="invoices")

        orders, invoices = sorted(administration.status(), key=lambda status: status.topic, reverse=True)

        assert (orders.topic, orders.pending, orders.failed, orders.held) == ("orders", 0, 1, 2)
        assert (invoices.topic, invoices.pending, invoices.failed, invoices.held) == ("invoices", 2, 0, 0)
        assert before <= orders.oldest_published_at <= invoices.oldest_published_at <= datetime.now(UTC)

    def test_an_outbox_that_is_empty_or_all_sent_has_no_status(self, database, relay_pending, administration):
        empty = administration.status()
        database.write("a0")
        relay_pending()

        assert empty == administration.status() == administration.failed() == []

    def test_failed_messages_are_told_with_how_many_they_hold(
        self, database, driver, relay_pending, administration
    ):
        database.write("a0", "a1", "a2", "b0", "-0")
        database.write("a3", topic="others")
        driver.judge = lambda topic, name: REFUSAL if name in {"a0", "b0", "-0"} else None
        relay_pending()

        first, second, third = administration.failed()

        assert (first.id, first.topic, first.key, first.event_type_name) == (1, "orders", "a", "Named")
        assert [failed.held for failed in (first, second, third)] == [2, 0, 0]
        assert third.key is None
        assert first.message_id == database.column("message_id")[0]
        assert first.error == "InvalidMessageError: not this one"
        assert timedelta(0) <= datetime.now(UTC) - first.published_at < timedelta(hours=1)
        assert administration.failed(limit=2) == [first, second]

    def test_only_what_is_named_and_failed_is_decided_about(
        self, database, driver, relay_pending, administration
    ):
        database.write("a0", "b0", "c0", "d0")
        driver.judge = lambda topic, name: REFUSAL if name[0] in "abc" else None
        relay_pending()

        counts = (
            administration.retry([2, 4, 99]),
            administration.skip([1, 2, 4]),
            administration.skip([1]),
            administration.retry([]),
        )

        assert counts == (1, 1, 0, 0)
        assert database.states == ["skipped", "pending", "failed", "sent"]

    def test_all_are_retried_if_none_is_named(self, database, driver, relay_pending, administration):
        database.write("a0", "a1", "b0", "-0")
        driver.judge = lambda topic, name: REFUSAL
        relay_pending()

        assert administration.retry() == 3
        assert database.states == ["pending"] * 4

    def test_what_a_key_holds_waits_for_the_last_failed_one_of_it(self, database, administration):
        database.write("a0", "a1", "a2")
        self._set(database, "state = 'failed'", "id < 3")
        self._set(database, "state = 'held'", "id = 3")

        administration.skip([1])
        still_held = database.states
        administration.skip([2])

        assert still_held == ["skipped", "failed", "held"]
        assert database.states == ["skipped", "skipped", "pending"]

    def test_a_topic_is_skipped_with_all_that_waits_for_it(self, database, administration):
        database.write("a0", "a1", "b0", topic="gone")
        database.write("a0")
        self._set(database, "state = 'failed'", "id = 1")
        self._set(database, "state = 'held'", "id = 2")

        assert administration.skip_topic("gone") == 3

        assert database.states == ["skipped", "skipped", "skipped", "pending"]
        assert administration.skip_topic("gone") == 0

    def test_a_single_id_is_as_good_as_a_list(self, database, administration):
        database.write("a0", "b0")
        self._set(database, "state = 'failed'", "true")

        assert (administration.retry(1), administration.skip(2)) == (1, 1)
        assert database.states == ["pending", "skipped"]

    def test_what_left_long_ago_is_purged_and_nothing_else(self, database, administration):
        database.write(*(f"-{number}" for number in range(8)))
        done = [("sent", 48), ("skipped", 48), ("sent", 1), ("skipped", 1)]
        for number, (state, hours) in enumerate(done, 1):
            self._finish(database, state, hours, f"id = {number}")
        self._set(database, "state = 'failed'", "id = 5")
        self._set(database, "state = 'held'", "id = 6")

        purgeable = administration.count_purgeable(24 * HOUR_SECONDS)
        purged = administration.purge(24 * HOUR_SECONDS)

        assert (purgeable, purged) == (2, 2)
        assert database.column("id") == [3, 4, 5, 6, 7, 8]
        assert administration.count_purgeable(24 * HOUR_SECONDS) == 0
        assert administration.purge(24 * HOUR_SECONDS) == 0

    def test_much_is_purged_in_small_transactions(self, database, administration):
        database.write(*(f"-{number}" for number in range(2_500)))
        self._finish(database, "sent", 48, "true")

        steps: list[int] = []
        assert administration.purge(HOUR_SECONDS, on_progress=steps.append) == 2_500
        assert steps == [1_000, 1_000, 500]

    def test_an_id_never_comes_to_mean_another_message(self, database, relay_pending, administration):
        database.write("a0", "a1")
        relay_pending()
        administration.purge(0)

        database.write("a2")

        assert database.column("id") == [3]

    def test_a_relay_purges_what_left_long_ago(self, database, driver, start_relay, eventually, clock):
        database.write(*(f"-{number}" for number in range(2_500)))
        self._finish(database, "sent", 48, "id > 2", clock.now())

        start_relay(keep_sent_seconds=24 * HOUR_SECONDS)
        eventually(lambda: driver.accepted)
        clock.advance(60)

        eventually(lambda: database.column("id") == [1, 2])
        assert database.states == ["sent", "sent"]

    def test_a_relay_that_keeps_everything_purges_nothing(
        self, database, driver, start_relay, eventually, clock, caplog
    ):
        database.write("a0", "a1")
        self._finish(database, "sent", 48, "id = 1", clock.now())

        start_relay(keep_sent_seconds=None)

        eventually(lambda: driver.accepted == ["a1"])
        clock.advance(120)
        database.write("a2")
        eventually(lambda: driver.accepted == ["a1", "a2"])
        assert database.column("id") == [1, 2, 3]
        assert "trying again" not in caplog.text

    def test_a_database_that_cannot_be_used_is_an_outbox_error(self, database, administration):
        metadata.drop_all(database.engine)

        for call in (
            administration.status,
            administration.failed,
            administration.retry,
            lambda: administration.skip([1]),
            lambda: administration.purge(1),
            lambda: administration.count_purgeable(1),
        ):
            with pytest.raises(OutboxError, match=r"metadata\.create_all"):
                call()

    def _set(self, database, values: str, condition: str, **parameters: object) -> None:
        with Session(database.engine) as session, session.begin():
            session.execute(text(f"UPDATE melange_outbox SET {values} WHERE {condition}"), parameters)

    def _finish(
        self, database, state: str, hours: float, condition: str, now: datetime | None = None
    ) -> None:
        with Session(database.engine) as session, session.begin():
            done = {"state": state, "done_at": (now or datetime.now(UTC)) - timedelta(hours=hours)}
            session.query(OutboxMessage).where(text(condition)).update(done, synchronize_session=False)
