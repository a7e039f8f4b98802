"""The program of a worker with an inbox: ``python -m chaos.outbox.consumer SETTINGS``."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from chaos.deaths import may_die_at
from chaos.journal import BEGAN, EFFECT, Journal
from chaos.journaling import JournalingDriver
from chaos.outbox.sabotage import EFFECT_APART, write_effect_apart
from chaos.outbox.settings import OutboxSettings
from chaos.outbox.tables import Effect, engine_for
from chaos.program import run_program
from melange import Backoff, ExchangeMessageConsumer, QueueOptions, RetryPolicy, Worker
from melange.deduplication import Claimed
from melange.outbox import Inbox

VISIBILITY_TIMEOUT_SECONDS = 2
LISTENER = "effect"


class MortalInbox(Inbox):
    """May die before or after the commit that marks a message."""

    def complete(self, claimed: Claimed) -> bool:
        may_die_at("before-mark")
        is_marked = super().complete(claimed)
        may_die_at("after-mark")
        return is_marked


def main(argument: str) -> int:
    """Work until told to stop."""
    settings = OutboxSettings.from_text(argument)
    journal = Journal(Path(settings.journals))
    engine = engine_for(settings.effects_url, connections=settings.concurrency + 2)
    consumer = ExchangeMessageConsumer(
        settings.queue,
        settings.topic,
        driver=JournalingDriver(journal, settings.endpoint_url),
        deduplication=MortalInbox(sessionmaker(engine)),
        queue=QueueOptions(visibility_timeout_seconds=VISIBILITY_TIMEOUT_SECONDS, wait_seconds=1),
        retry=RetryPolicy(backoff=Backoff(first_seconds=0.2, max_seconds=2.0)),
    )

    @consumer.listener("Changed", name=LISTENER)
    def write_effect(event: object, *, message_id: str, session: Session) -> None:
        journal.write(BEGAN, message_id, LISTENER)
        if settings.sabotage == EFFECT_APART:
            write_effect_apart(session, message_id)
        else:
            session.add(Effect(message_id=message_id))
            session.flush()
        journal.write(EFFECT, message_id, LISTENER)
        may_die_at("after-effect")

    return Worker(consumer, concurrency=settings.concurrency, grace_seconds=20.0).run()


if __name__ == "__main__":
    run_program(main)
