"""The program of a relay: ``python -m chaos.outbox.relay SETTINGS``."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from chaos.deaths import may_die_at
from chaos.journal import MARKED, Journal
from chaos.journaling import JournalingDriver
from chaos.outbox.sabotage import RELAYS, NaiveRelay
from chaos.outbox.settings import OutboxSettings
from chaos.outbox.tables import engine_for
from chaos.program import run_program
from melange.errors import Failure
from melange.messages import Message, Topic
from melange.outbox import OutboxRelay
from melange.signals import calling_on_signal

POLL_SECONDS = 0.1


class RelayDriver(JournalingDriver):
    """Writes down what was published and when it was read, and may die before."""

    is_unmarked = False

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        may_die_at("before-outbox-publish")
        self.is_unmarked = True
        return super().publish(topic, messages)


class WatchedDatabase:
    """Sees what a relay reads and marks; writes down that marks were committed, and may die before or after."""

    def __init__(self, engine: Engine, driver: RelayDriver, journal: Journal) -> None:
        self._driver = driver
        self._journal = journal
        self._do_commit = engine.dialect.do_commit
        # The event of a commit comes before it, and a connection comes back when the commit has failed, too.
        engine.dialect.do_commit = self.commit  # type: ignore[method-assign, assignment]
        event.listen(engine, "before_cursor_execute", self.before_execute)

    def before_execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "melange_outbox" not in statement:
            return
        if statement.startswith("SELECT"):
            self._driver.read_at = str(time.monotonic())
        elif self._driver.is_unmarked:
            may_die_at("before-outbox-mark")

    def commit(self, connection: Any) -> None:
        self._do_commit(connection)
        if self._driver.is_unmarked:
            self._driver.is_unmarked = False
            self._journal.write(MARKED)
            may_die_at("after-outbox-mark")


def main(argument: str) -> int:
    """Relay until told to stop."""
    settings = OutboxSettings.from_text(argument)
    journal = Journal(Path(settings.journals))
    engine = engine_for(settings.database_url)
    driver = RelayDriver(journal, settings.endpoint_url)
    WatchedDatabase(engine, driver, journal)
    if settings.sabotage in RELAYS:
        return run_naively(RELAYS[settings.sabotage](engine, driver, settings.batch_size))
    return OutboxRelay(engine, driver, batch_size=settings.batch_size, poll_seconds=POLL_SECONDS).run()


def run_naively(relay: NaiveRelay) -> int:
    """Relay until told to stop, in the simplest way."""
    stopping = threading.Event()
    with calling_on_signal(stopping.set):
        while not stopping.is_set():
            if not relay.relay_batch():
                stopping.wait(POLL_SECONDS)
    return 0


if __name__ == "__main__":
    run_program(main)
