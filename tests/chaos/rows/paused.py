"""Workers are paused until other workers have received their messages, and then continue."""

from __future__ import annotations

import time

from chaos.checker import check
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage


def paused_workers(services: Services, seed: int, *, messages: int, pauses: int, workers: int) -> RowResult:
    """Pause for longer than a delivery stays invisible: its timeout and the wait of the poll."""
    with Stage(services, "paused workers", seed) as stage:
        invisible_seconds = stage.settings.visibility_timeout_seconds + stage.settings.wait_seconds
        stage.start_workers(workers)
        for number in range(pauses):
            stage.tell(f"pause {number + 1} of {pauses}")
            share = messages * (number + 1) // pauses - messages * number // pauses
            stage.publish(Job(work_seconds=stage.random.uniform(0, 1)) for _ in range(share))
            stage.let_pass(0, 0.5)
            with stage.paused(stage.a_worker_at_work()):
                time.sleep(invisible_seconds + stage.random.uniform(0.2, 2))
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    findings = check(evidence)
    return RowResult(
        load=f"{messages:,} messages, {pauses} pauses of 3.2 to 5 s over {workers} workers",
        findings=findings,
        measured={
            "stale acknowledge or complete accepted": len(
                findings.stale_completes + findings.stale_acknowledges
            )
        },
        wrong=wrong_exit_codes(codes),
    )
