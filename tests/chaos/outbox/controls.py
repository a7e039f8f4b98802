"""Negative controls: what one might write in place of outbox, relay and inbox, and what the checker says to it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from chaos.checker import Findings
from chaos.control import Control
from chaos.journal import PUBLISHED
from chaos.outbox.checker import check_outbox
from chaos.outbox.sabotage import (
    ABOVE_THE_LAST,
    COMMIT_THEN_PUBLISH,
    EFFECT_APART,
    PUBLISH_THEN_COMMIT,
    SKIP_LOCKED_ROWS,
)
from chaos.outbox.settings import Plan
from chaos.outbox.stage import CONSUMER, OutboxStage
from chaos.outbox.writer import writer
from chaos.scene import Services
from melange.outbox import OutboxMessage

DEADLY_COMMIT = 5


def killed_after_a_commit(services: Services, sabotage: str = "") -> Findings:
    """A fifth of the transactions is rolled back, and the writer dies right after one that was committed."""
    with OutboxStage(
        services, "killed after a commit", 0, transactions=40, keys=3, lanes=1, sabotage=sabotage
    ) as stage:
        dying = stage.start_writer(0, f"after-commit:{DEADLY_COMMIT}")
        stage.start_all(lanes=(), relays=1)
        stage.await_death(dying)
        stage.replace(dying)
        return _finished(stage)


def committed_late(services: Services, sabotage: str = "") -> Findings:
    """A message is committed after another that was written later has gone."""
    with _few(services, "committed late", sabotage) as stage, writer(stage.settings) as one:
        stage.start_all(lanes=(), relays=1)
        with Session(one.engine) as late:
            one.write(late, ["key-0"])
            one.run(1, Plan(["key-1"]))
            stage.wait_for(lambda: _published(stage) == 1, "the other message to be published")
            late.commit()
        return _finished(stage)


def locked_row(services: Services, sabotage: str = "") -> Findings:
    """Another transaction has locked a message when a relay begins."""
    with _few(services, "locked row", sabotage) as stage, writer(stage.settings) as one:
        one.run(0, Plan(["key-0", "key-0"]))
        with one.engine.begin() as other:
            other.execute(select(OutboxMessage.id).order_by(OutboxMessage.id).limit(1).with_for_update())
            stage.start_all(lanes=(), relays=1)
            stage.wait_for(lambda: _published(stage) > 0, "a message to be published")
        return _finished(stage)


def killed_before_the_mark(services: Services, sabotage: str = "") -> Findings:
    """A consumer dies between what its listener did and the mark."""
    with _few(services, "killed before the mark", sabotage) as stage, writer(stage.settings) as one:
        one.run(0, Plan(["key-0"]))
        dying = stage.start_one(CONSUMER, "before-mark")
        stage.start_all(lanes=(), relays=1)
        stage.await_death(dying)
        stage.replace(dying)
        return _finished(stage)


CONTROLS = (
    Control(PUBLISH_THEN_COMMIT, killed_after_a_commit, caught_by="unexpected"),
    Control(COMMIT_THEN_PUBLISH, killed_after_a_commit, caught_by="lost"),
    Control(ABOVE_THE_LAST, committed_late, caught_by="lost"),
    Control(SKIP_LOCKED_ROWS, locked_row, caught_by="out_of_order"),
    Control(EFFECT_APART, killed_before_the_mark, caught_by="unexplained_duplicates"),
)


def _few(services: Services, name: str, sabotage: str) -> OutboxStage:
    """Return a stage whose transactions are written by the scenario itself."""
    return OutboxStage(services, name, 0, transactions=0, keys=2, lanes=1, sabotage=sabotage)


def _published(stage: OutboxStage) -> int:
    return sum(record.kind == PUBLISHED for record in stage.records())


def _finished(stage: OutboxStage) -> Findings:
    stage.wait_until_done()
    stage.stop()
    return check_outbox(stage.evidence())
