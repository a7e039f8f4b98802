"""Workers die at named points in the code."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.checker import check
from chaos.journal import COMPLETED, EFFECT, Record
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

POINTS = (
    "after-receive",
    "after-claim",
    "before-effect",
    "after-effect",
    "before-mark",
    "after-mark",
    "before-acknowledge",
    "after-acknowledge",
)
BETWEEN_EFFECT_AND_MARK = {"after-effect", "before-mark"}
"""Where a death costs a second effect of the one message at work, as documented; elsewhere of none."""


def fail_points(services: Services, seed: int, *, deaths_each: int) -> RowResult:
    """One worker after the other, each with one message at a time, dies; the last one finishes the rest."""
    wrong: list[str] = []
    points = POINTS * deaths_each
    with Stage(services, "fail points", seed, concurrency=1) as stage:
        for number, point in enumerate(points):
            stage.tell(f"death {number + 1} of {len(points)}")
            # The acknowledge of one message goes out while the next is worked on: that one must not get far.
            stage.publish([Job(work_seconds=0.2)] * 2)
            passes = stage.random.randint(1, 2)
            worker = stage.start_worker(f"{point}:{passes}")
            if not stage.await_death(worker):
                wrong.append(f"a worker did not die at {point}")
            unmarked = _unmarked(stage.records(), worker.process_number)
            if unmarked != (point in BETWEEN_EFFECT_AND_MARK):
                wrong.append(f"{unmarked} effects without a mark at {point}")
        stage.start_workers(1)
        stage.wait_until_empty()
        wrong += wrong_exit_codes(stage.stop_workers())
        evidence = stage.evidence()
    findings = check(evidence)
    specified = sum(point in BETWEEN_EFFECT_AND_MARK for point in points)
    if len(findings.explained_duplicates) != specified:
        wrong.append(f"{len(findings.explained_duplicates)} second effects instead of {specified}")
    return RowResult(
        load=f"{len(POINTS)} points, {deaths_each} deaths at each",
        findings=findings,
        measured={"second effects, as specified": specified},
        wrong=wrong,
    )


def _unmarked(records: Sequence[Record], process_number: int) -> int:
    """Count a worker's effects that it did not come to mark."""
    marked = {
        record.message_id
        for record in records
        if record.process_number == process_number and record.kind == COMPLETED
    }
    effects = {
        record.message_id
        for record in records
        if record.process_number == process_number and record.kind == EFFECT
    }
    return len(effects - marked)
