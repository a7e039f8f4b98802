"""The program of a relay: ``python -m chaos.outbox.relay SETTINGS``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import event

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
    """Writes down what was published, and when all of it was marked."""

    _is_unmarked = False

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        self._is_unmarked = True
        return super().publish(topic, messages)

    def connection_came_back(self, *_: object) -> None:
        """Take note that what was published is marked, or that marking it has failed."""
        if self._is_unmarked:
            self._is_unmarked = False
            self._journal.write(MARKED)


def main(argument: str) -> int:
    """Relay until told to stop."""
    settings = OutboxSettings.from_text(argument)
    journal = Journal(Path(settings.journals))
    engine = engine_for(settings.database_url)
    driver = RelayDriver(journal, settings.endpoint_url)
    event.listen(engine, "checkin", driver.connection_came_back)
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
