"""Three listeners for each message, one of which often fails."""

from __future__ import annotations

from chaos.checker import check
from chaos.journal import BEGAN
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

FAILING = 0.3


def several_listeners(services: Services, seed: int, *, messages: int, workers: int) -> RowResult:
    """A retry has to run the listener that failed and leave the finished ones alone."""
    with Stage(services, "several listeners", seed, listeners=("first", "failing", "last")) as stage:
        failing = [stage.random.random() < FAILING for _ in range(messages)]
        stage.publish(Job(failures={"failing": int(fails)}) for fails in failing)
        stage.start_workers(workers)
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    began = sum(record.kind == BEGAN for record in evidence.records)
    reruns = began - 3 * messages - sum(failing)
    wrong = wrong_exit_codes(codes)
    if reruns:
        wrong.append(f"{reruns} runs of listeners that had finished")
    return RowResult(
        load=f"{messages:,} messages for 3 listeners, one fails for {sum(failing):,} of them, {workers} workers",
        findings=check(evidence),
        measured={"reruns of finished listeners": reruns},
        wrong=wrong,
    )
