"""The program of a process that writes transactions: ``python -m chaos.outbox.writer SETTINGS``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chaos.deaths import may_die_at
from chaos.journal import BEGAN, COMMITTED, FAILED, ROLLED_BACK, Journal
from chaos.outbox.sabotage import WAYS_OUT
from chaos.outbox.settings import OutboxSettings, Plan, plan_of
from chaos.outbox.tables import Aggregate, Written, engine_for
from chaos.outbox.ways_out import ThroughOutbox, WayOut
from chaos.program import run_program

LOOK_EVERY_SECONDS = 0.1


class Writer:
    """Runs transactions one after the other; what the database refuses, or an outage cuts off, it leaves."""

    def __init__(self, engine: Engine, way_out: WayOut, journal: Journal) -> None:
        self.engine = engine
        self._way_out = way_out
        self._journal = journal

    def run(self, number: int, plan: Plan) -> None:
        """Run a transaction; its number goes into the journal."""
        time.sleep(plan.pause_seconds)
        self._journal.write(BEGAN, token=str(number))
        try:
            self._run(number, plan)
        except DBAPIError:  # in an outage; whether it was committed nobody knows but the database
            self._journal.write(FAILED, token=str(number))
            self._wait_for_database()

    def write(self, session: Session, keys: Iterable[str]) -> None:
        """Write an event for each key in the session's transaction."""
        for key in keys:
            self._publish(session, key)
        session.flush()

    def _run(self, number: int, plan: Plan) -> None:
        with Session(self.engine) as session:
            self.write(session, plan.keys)
            time.sleep(plan.open_seconds)
            if plan.is_rolled_back:
                session.rollback()
                self._way_out.forget()
                self._journal.write(ROLLED_BACK, token=str(number))
                return
            may_die_at("before-commit")
            session.commit()
        may_die_at("after-commit")
        self._way_out.committed()
        self._journal.write(COMMITTED, token=str(number))

    def _publish(self, session: Session, key: str) -> None:
        # The update comes first: it keeps the others away from the aggregate until the end.
        next_number = (
            update(Aggregate)
            .where(Aggregate.key == key)
            .values(number=Aggregate.number + 1)
            .returning(Aggregate.number)
        )
        number = session.execute(next_number).scalar_one()
        event = {"event_type_name": "Changed", "key": key, "number": number}
        message_id = self._way_out.publish(session, event, key)
        session.add(Written(message_id=message_id, key=key, number=number))

    def _wait_for_database(self) -> None:
        while True:
            try:
                with self.engine.connect() as connection:
                    connection.execute(select(1))
            except DBAPIError:
                time.sleep(LOOK_EVERY_SECONDS)
            else:
                return


@contextmanager
def writer(settings: OutboxSettings) -> Iterator[Writer]:
    """Yield a writer."""
    journal = Journal(Path(settings.journals))
    engine = engine_for(settings.database_url)
    yield Writer(engine, WAYS_OUT.get(settings.sabotage, ThroughOutbox)(settings, journal), journal)
    engine.dispose()
    journal.close()


def main(argument: str) -> int:
    """Run all transactions of a lane."""
    settings = OutboxSettings.from_text(argument)
    with writer(settings) as one:
        for number in range(settings.first, settings.transactions, settings.lanes):
            one.run(number, plan_of(settings, number))
    return 0


if __name__ == "__main__":
    run_program(main)
