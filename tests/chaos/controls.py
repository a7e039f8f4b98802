"""Negative controls: workers broken on purpose, each of which the checker has to catch."""

from __future__ import annotations

from chaos.checker import Findings, check
from chaos.control import Control
from chaos.journal import BEGAN
from chaos.outbox import controls as outbox_controls
from chaos.processes import WorkerProcess
from chaos.scene import Services
from chaos.stage import Job, Stage

FEW = 5


def killed_before_the_effect(services: Services, sabotage: str = "") -> Findings:
    """A worker dies with claimed messages in hand, another one goes on."""
    with Stage(services, "killed before the effect", 0, sabotage=sabotage, concurrency=1) as stage:
        stage.publish([Job()] * FEW)
        stage.await_death(stage.start_worker(fail_point="before-effect"))
        return _finished(stage)


def published_twice(services: Services, sabotage: str = "") -> Findings:
    """The queue holds two copies of each message."""
    with Stage(services, "published twice", 0, sabotage=sabotage) as stage:
        stage.publish([Job()] * FEW, copies=2)
        return _finished(stage)


def overslept(services: Services, sabotage: str = "") -> Findings:
    """A worker sleeps until another has taken its message over, and then goes on as if nothing was."""
    with Stage(services, "overslept", 0, sabotage=sabotage) as stage:
        stage.start_workers(2)
        stage.publish([Job(work_seconds=2)])
        stage.wait_for(lambda: len(_began(stage)) == 1, "the first to begin")
        with stage.paused(_worker(stage, _began(stage)[0])):
            stage.wait_for(lambda: len(_began(stage)) == 2, "the second to take over")
        return _finished(stage)


CONTROLS = (
    Control("mark before run", killed_before_the_effect, caught_by="lost"),
    Control("acknowledge early", killed_before_the_effect, caught_by="lost"),
    Control("no deduplication", published_twice, caught_by="unexplained_duplicates"),
    Control("unfenced complete", overslept, caught_by="stale_completes"),
    *outbox_controls.CONTROLS,
)


def _finished(stage: Stage) -> Findings:
    if not stage.workers:
        stage.start_worker()
    stage.wait_until_empty()
    stage.stop_workers()
    return check(stage.evidence(one_copy_each=False))


def _began(stage: Stage) -> list[int]:
    return [record.pid for record in stage.records() if record.kind == BEGAN]


def _worker(stage: Stage, pid: int) -> WorkerProcess:
    return next(worker for worker in stage.workers if worker.pid == pid)
