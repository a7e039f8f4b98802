"""Workers are killed while they work, one after the other, and replaced."""

from __future__ import annotations

from chaos.checker import check
from chaos.rows.result import RowResult, killed_listeners, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage


def crash(services: Services, seed: int, *, messages: int, kills: int, workers: int) -> RowResult:
    """Publish between the kills, so that each of them meets workers at work."""
    with Stage(services, "crash", seed) as stage:
        stage.start_workers(workers)
        for number in range(kills):
            stage.tell(f"kill {number + 1} of {kills}")
            share = messages * (number + 1) // kills - messages * number // kills
            stage.publish(Job(work_seconds=stage.random.uniform(0, 0.1)) for _ in range(share))
            stage.let_pass(0, 0.5)
            stage.kill(stage.a_worker_at_work())
            stage.start_worker()
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    return RowResult(
        load=f"{messages:,} messages, {kills} SIGKILLs over {workers} workers",
        findings=check(evidence),
        measured={"listeners killed": killed_listeners(evidence)},
        wrong=wrong_exit_codes(codes),
    )
