"""Some listeners take longer than the visibility timeout."""

from __future__ import annotations

from chaos.checker import check
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

SLOW = 0.02


def slow_listeners(services: Services, seed: int, *, messages: int, workers: int) -> RowResult:
    """Nothing is broken here, so nothing explains a duplicate."""
    with Stage(services, "slow listeners", seed) as stage:
        timeout_seconds = stage.settings.visibility_timeout_seconds
        seconds = [stage.random.uniform(0, 0.02) for _ in range(messages)]
        slow = stage.random.sample(range(messages), max(1, int(messages * SLOW)))
        for number in slow:
            seconds[number] = timeout_seconds * stage.random.uniform(1.5, 3)
        stage.publish(Job(work_seconds=one) for one in seconds)
        stage.start_workers(workers)
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    return RowResult(
        load=f"{messages:,} messages, {len(slow)} of them at 1.5 to 3 visibility timeouts, {workers} workers",
        findings=check(evidence),
        wrong=wrong_exit_codes(codes),
    )
