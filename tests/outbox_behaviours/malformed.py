"""Rows that no outbox has written, or that were damaged: each stops its own key, is shown, and can be skipped."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from melange.errors import DriverError
from melange.outbox import OutboxAdministration, create_statements, metadata
from outbox_behaviours.databases import Database
from outbox_behaviours.drivers import raising

MALFORMED = {
    "headers that are a list": "headers = '[1]'",
    "headers that are a text": "headers = '\"x\"'",
    "a header that is a number": "headers = '{\"a\": 1}'",
    "headers that are JSON null": "headers = 'false'",
    "no message id": "message_id = NULL",
    "no type": "event_type_name = NULL",
    "no body": "body = NULL",
    "no time": "published_at = NULL",
    "no lock key": "lock_key = NULL",
    "no topic": "topic = NULL",
}
ON_SQLITE = {
    "headers that are no JSON": "headers = '{'",
    "headers nested without end": f"headers = '{'[' * 100_000}'",
    "a time that is a word": "published_at = 'yesterday'",
    "a time that is a number": "published_at = 7",
    "a month too many": "published_at = '2026-13-01 00:00:00'",
    "a body that is no UTF-8": "body = CAST(x'ff' AS TEXT)",
    "a body of bytes": "body = x'00'",
    "a message id that is no UTF-8": "message_id = CAST(x'ff' AS TEXT)",
    "a topic that is no UTF-8": "topic = CAST(x'ff' AS TEXT)",
    "a key that is no UTF-8": "key = CAST(x'ff' AS TEXT)",
    "a message id of bytes": "message_id = x'00'",
    "a lock key that is a word": "lock_key = 'x'",
    "a group that is a number": "message_group_id = x'01'",
}
ON_POSTGRESQL = {
    "a time without an end": "published_at = 'infinity'",
    "a time without a beginning": "published_at = '-infinity'",
    "a time after the year 9999": "published_at = '10000-01-01'",
    "a time before our era": "published_at = '0044-03-15 BC'",
}
STOPS_NOTHING = {
    "no lock key",
    "a lock key that is a word",
    "no topic",
    "a topic that is no UTF-8",
    "a key that is no UTF-8",
}
"""What belongs to no key, by its row: so nothing is held."""


class MalformedBehaviours:
    """The class of each database has ``damage``, a fixture with its own list."""

    def test_a_malformed_row_stops_its_own_key_only_and_can_be_skipped(
        self, database, driver, relay_pending, damage
    ):
        self._allow_null(database)
        database.write("a0", "a1", "a2", "b0")
        database.write("c0", topic="others")
        self._damage(database, damage[1], row=2)
        administration = OutboxAdministration(database.engine)
        before = administration.status()

        relay_pending()
        relay_pending()

        held = [] if damage[0] in STOPS_NOTHING else ["a2"]
        assert set(driver.accepted) == {"a0", "a2", "b0", "c0"} - set(held)
        assert database.ids_of("failed") == [2]
        assert database.ids_of("held") == [3] * len(held)
        [failed] = administration.failed()
        assert (failed.id, failed.held) == (2, len(held))
        assert failed.error.startswith("InvalidMessageError: its row ")
        texts = [failed.topic, failed.key, failed.message_id, failed.event_type_name, failed.error]
        assert [type(value) for value in texts] == [str] * 5
        assert sum(status.pending for status in before) == 5
        assert sum(status.failed for status in administration.status()) == 1
        assert administration.skip(2) == 1
        relay_pending()
        assert sorted(driver.accepted) == ["a0", "a2", "b0", "c0"]

    def test_retried_in_vain_it_fails_again(self, database, driver, relay_pending):
        database.write("a0", "a1")
        self._damage(database, "headers = '[1]'", row=1)
        relay_pending()

        retried = OutboxAdministration(database.engine).retry()
        relay_pending()

        assert retried == 1
        assert database.states == ["failed", "held"]

    def test_a_failed_message_is_decided_about_as_it_was_listed(self, database, relay_pending):
        database.write("a0", "a1", "b0")
        self._damage(database, "headers = '[1]'", row=1)
        self._damage(database, "headers = '[1]'", row=3)
        relay_pending()
        administration = OutboxAdministration(database.engine)
        first, second = administration.failed()

        counts = administration.skip(first), administration.retry([second]), administration.skip(first)

        assert counts == (1, 1, 0)
        assert database.states == ["skipped", "pending", "pending"]

    def test_a_count_of_attempts_that_is_none_begins_at_nought(self, database, driver, relay_pending):
        self._allow_null(database)
        database.write("a0", "b0")
        self._damage(database, "attempts = NULL", row=1)
        driver.judge = lambda topic, name: DriverError("no answer") if name == "a0" else None

        with pytest.raises(DriverError):
            relay_pending()

        assert database.column("attempts") == [1, 0]

    def test_a_message_that_the_driver_chokes_on_stops_its_own_key_only(
        self, database, driver, relay_pending
    ):
        driver.judge = lambda topic, name: raising(KeyError("bug")) if name == "a0" else None
        database.write("a0", "a1")

        for number in range(3):
            database.write(f"b{number}")
            if database.states[0] == "pending":
                with pytest.raises(DriverError, match="KeyError"):
                    relay_pending(max_attempts=3) if number < 2 else raising(DriverError("KeyError"))
        relay_pending(max_attempts=3)

        assert driver.accepted == ["b0", "b1", "b2"]
        assert database.states[:2] == ["failed", "held"]

    def _damage(self, database: Database, assignment: str, row: int) -> None:
        with Session(database.engine) as session, session.begin():
            session.connection().exec_driver_sql(
                f"UPDATE melange_outbox SET {assignment} WHERE id = {row}".replace("%", "%%")
            )

    def _allow_null(self, database: Database) -> None:
        """Make the table without constraints, as it may have been made by hand."""
        metadata.drop_all(database.engine)
        script = create_statements(database.engine.dialect.name)
        script = re.sub(r" NOT NULL(?=\s*[,\n])", "", script)
        with database.engine.begin() as connection:
            for statement in re.split(r";\n", script):
                if statement.strip():
                    connection.exec_driver_sql(statement)


class RestoredDatabaseBehaviours:
    """The database is restored from an older backup, whose sequence gives the same ids again."""

    def test_an_id_that_means_another_message_now_is_not_decided_about(self, database, relay_pending):
        database.write("a0", "b0")
        self._set(database, "state = 'failed'")
        administration = OutboxAdministration(database.engine)
        noted = administration.failed()
        names = [message.message_id for message in noted]
        self._set(database, "message_id = 'another-' || id")

        decided = [
            administration.skip(noted),
            administration.retry(noted[0]),
            administration.skip(names),
            administration.retry(names[0]),
        ]

        assert decided == [0, 0, 0, 0]
        assert database.states == ["failed", "failed"]
        assert administration.skip(["another-1", "another-2"]) == 2

    def _set(self, database: Database, assignment: str) -> None:
        with Session(database.engine) as session, session.begin():
            session.execute(text(f"UPDATE melange_outbox SET {assignment}"))
