"""The tables, however they are made, and the plans by which they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, Table, event, inspect, select, text, update
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex

from melange.errors import InvalidMessageError
from melange.outbox import (
    OutboxAdministration,
    OutboxMessage,
    OutboxScheduledMessage,
    create_statements,
    metadata,
)

TABLES = {"melange_inbox", "melange_inbox_attempts", "melange_outbox", "melange_outbox_scheduled"}


class SchemaBehaviours:
    def test_the_printed_statements_make_what_create_all_makes(self, database):
        made = described(database.engine)
        metadata.drop_all(database.engine)

        run_script(database.engine, create_statements(database.engine.dialect.name))

        assert described(database.engine) == made
        assert differences(database.engine) == []

    def test_the_printed_statements_serve_outbox_and_relay(self, database, relay_pending):
        metadata.drop_all(database.engine)
        run_script(database.engine, create_statements(database.engine.dialect.name))

        database.write("a0", "a1")

        assert relay_pending() == 2

    def test_alembic_finds_nothing_to_change(self, database):
        assert differences(database.engine) == []

    def test_alembic_would_notice_a_missing_index_and_column(self, database):
        with database.engine.begin() as connection:
            connection.execute(text("DROP INDEX melange_outbox_stopped"))
            connection.execute(text("ALTER TABLE melange_outbox DROP COLUMN error"))

        assert {difference[0] for difference in differences(database.engine)} == {"add_index", "add_column"}

    def test_what_alembic_generates_makes_the_tables_beside_one_s_own(self, database, relay_pending):
        made = described(database.engine)
        metadata.drop_all(database.engine)
        own = MetaData()
        Table("own", own, Column("id", Integer, primary_key=True))

        with migration(database.engine) as context:
            upgrade = produce_migrations(context, [own, metadata]).upgrade_ops
            code = render_python_code(upgrade)
            # As it stands in a migration, which imports these two and nothing else.
            exec("if True:\n    " + code, {"op": Operations(context), "sa": sa})

        names = set(inspect(database.engine).get_table_names())
        own.drop_all(database.engine)
        assert names == {"own", *TABLES}
        assert described(database.engine) == made
        database.write("a0")
        assert relay_pending() == 1


class PlanBehaviours:
    """With many messages that were sent, each query goes by the index that is made for it."""

    def test_every_query_goes_by_an_index(self, database, driver, relay_pending):
        database.write(*(f"{chr(97 + number % 5)}{number}" for number in range(3_000)))
        with Session(database.engine) as session, session.begin():
            session.execute(update(OutboxMessage).values(state="sent", done_at=datetime.now(UTC)))
        database.write("a1", "b1", "c1", "a2")
        schedule(database, 3_000)
        if database.engine.dialect.name == "postgresql":  # which does it by itself; on SQLite few ever do
            with database.engine.begin() as connection:
                connection.execute(text("ANALYZE"))
        administration = OutboxAdministration(database.engine)
        driver.judge = lambda topic, name: InvalidMessageError("no") if name == "a1" else None

        with plans(database.engine) as seen:
            relay_pending()
            administration.status()
            administration.failed()
            administration.count_purgeable(3_600)
            administration.purge(3_600)
            administration.retry()
            administration.scheduled()
            administration.cancel("x")
            relay_pending()

        assert {statement: plan for statement, plan in seen.items() if reads_all(plan)} == {}
        indexes = {
            "melange_outbox_pending",
            "melange_outbox_stopped",
            "melange_outbox_done",
            "melange_outbox_scheduled_due",
            "melange_outbox_scheduled_id",
        }
        assert {index for index in indexes if any(index in plan for plan in seen.values())} == indexes

    def test_a_query_that_no_index_serves_is_caught(self, database):
        with plans(database.engine) as seen, Session(database.engine) as session:
            session.scalars(select(OutboxMessage.id).where(OutboxMessage.message_id == "x")).all()

        assert [reads_all(plan) for plan in seen.values()] == [True]


def schedule(database, count: int) -> None:
    """Schedule messages, one of them due."""
    columns = {"topic": "orders", "lock_key": 0, "event_type_name": "Named", "body": '{"name": "z"}'}
    due = datetime.now(UTC)
    rows = [
        {
            **columns,
            "message_id": f"id-{number}",
            "due_at": due.replace(year=2000 if number == 0 else due.year + 1),
        }
        for number in range(count)
    ]
    with Session(database.engine) as session, session.begin():
        session.execute(sa.insert(OutboxScheduledMessage), rows)


def reads_all(plan: str) -> bool:
    """Tell whether a plan of SQLite or PostgreSQL reads the whole table."""
    return (
        re.search(r"SCAN (?!.*USING .*INDEX melange)[a-z_0-9]*outbox|Seq Scan on melange_outbox", plan)
        is not None
    )


@contextmanager
def plans(engine: sa.Engine) -> Iterator[dict[str, str]]:
    """Collect the plan of each statement about the outbox."""
    seen: dict[str, str] = {}
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"

    def before_cursor_execute(connection, cursor, statement, parameters, context, executemany):
        if "melange_outbox" in statement and not statement.startswith(("INSERT", "EXPLAIN")):
            cursor.execute(f"{explain} {statement}", parameters)
            seen[statement] = "\n".join(str(row[-1]) for row in cursor.fetchall())

    event.listen(engine, "before_cursor_execute", before_cursor_execute)
    yield seen
    event.remove(engine, "before_cursor_execute", before_cursor_execute)


@contextmanager
def migration(engine: sa.Engine) -> Iterator[MigrationContext]:
    options = {"compare_type": True, "compare_server_default": True}
    with engine.begin() as connection:
        yield MigrationContext.configure(connection, opts=options)


def differences(engine: sa.Engine) -> list[tuple[object, ...]]:
    with migration(engine) as context:
        return compare_metadata(context, metadata)


def run_script(engine: sa.Engine, script: str) -> None:
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def described(engine: sa.Engine) -> dict[str, object]:
    """Return all that the database says about the tables, as text."""
    found = inspect(engine)
    return {
        name: (
            [str(column) for column in found.get_columns(name)],
            found.get_pk_constraint(name),
            sorted(
                str(CreateIndex(index).compile(engine))
                for index in Table(name, MetaData(), autoload_with=engine).indexes
            ),
        )
        for name in sorted(TABLES)
    }
