"""Negative controls: workers broken on purpose, each of which the checker has to catch."""

from __future__ import annotations

from chaos.checker import Findings, check
from chaos.control import Control
from chaos.journal import BEGAN
from chaos.outbox import controls as outbox_controls
from chaos.processes import WorkerProcess
from chaos.rows.poison import MAX_ATTEMPTS, live_until_empty
from chaos.sabotage import WITHOUT_ISOLATION
from chaos.scene import Services
from chaos.stage import Job, Stage

FEW = 5


def killed_before_the_effect(services: Services, sabotage: str = "") -> Findings:
    """A worker dies with claimed messages in flight, and another one continues."""
    with Stage(services, "killed before the effect", 0, sabotage=sabotage, concurrency=1) as stage:
        stage.publish([Job()] * FEW)
        stage.await_death(stage.start_worker(fail_point="before-effect"))
        return _finished(stage)


def published_twice(services: Services, sabotage: str = "") -> Findings:
    """The queue holds two copies of each message."""
    with Stage(services, "published twice", 0, sabotage=sabotage) as stage:
        stage.publish([Job()] * FEW, copies=2)
        return _finished(stage)


def lease_expired(services: Services, sabotage: str = "") -> Findings:
    """A worker is paused until another has taken over its message, and then continues."""
    with Stage(services, "lease expired", 0, sabotage=sabotage) as stage:
        stage.start_workers(2)
        stage.publish([Job(work_seconds=2)])
        stage.wait_for(lambda: len(_began(stage)) == 1, "the first to begin")
        with stage.paused(_worker(stage, _began(stage)[0])):
            stage.wait_for(lambda: len(_began(stage)) == 2, "the second to take over")
        return _finished(stage)


def killed_by_a_message(services: Services, sabotage: str = "") -> Findings:
    """A message kills every process that works on it, in the middle of the work of its neighbours."""
    with Stage(services, "killed by a message", 0, sabotage=sabotage, max_attempts=MAX_ATTEMPTS) as stage:
        poison = Job(work_seconds=0.5, rejected=True, deadly=True)
        stage.publish([Job(work_seconds=1)] * FEW + [poison])
        live_until_empty(stage, MAX_ATTEMPTS + 1)
        return _finished(stage)


CONTROLS = (
    Control("mark before run", killed_before_the_effect, caught_by="lost"),
    Control("acknowledge early", killed_before_the_effect, caught_by="lost"),
    Control("no deduplication", published_twice, caught_by="unexplained_duplicates"),
    Control("unfenced complete", lease_expired, caught_by="stale_completes"),
    Control(WITHOUT_ISOLATION, killed_by_a_message, caught_by="wrongly_dead_lettered"),
    *outbox_controls.CONTROLS,
)


def _finished(stage: Stage) -> Findings:
    if not stage.workers:
        stage.start_worker()
    stage.wait_until_empty()
    stage.stop_workers()
    return check(stage.evidence(one_copy_each=False))


def _began(stage: Stage) -> list[int]:
    return [record.process_number for record in stage.records() if record.kind == BEGAN]


def _worker(stage: Stage, process_number: int) -> WorkerProcess:
    return next(worker for worker in stage.workers if worker.process_number == process_number)
