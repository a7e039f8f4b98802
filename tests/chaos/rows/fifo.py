"""Groups in order, while some of their messages fail and the workers are killed."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker import check
from chaos.rows.result import RowResult, killed_listeners, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

FAILING_ONCE, FAILING_ALWAYS = 0.04, 0.01
ALWAYS = 1_000_000
MAX_ATTEMPTS = 5


def fifo(services: Services, seed: int, *, groups: int, each: int, kills: int, workers: int) -> RowResult:
    """Kill while the groups are worked off, evenly over all that is published."""
    with Stage(services, "fifo", seed, is_fifo=True, max_attempts=MAX_ATTEMPTS) as stage:
        stage.start_workers(workers)
        jobs = list(_jobs(stage, groups, each))
        for number in range(kills):
            stage.tell(f"kill {number + 1} of {kills}")
            stage.publish(jobs[len(jobs) * number // kills : len(jobs) * (number + 1) // kills])
            stage.let_pass(0, 0.5)
            stage.kill(stage.a_worker_at_work())
            stage.start_worker()
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    rejected = sum(job.rejected for job in jobs)
    return RowResult(
        load=f"{groups} groups of {each}, 5 % failing, {kills} SIGKILLs over {workers} workers",
        findings=check(evidence),
        measured={"listeners killed": killed_listeners(evidence), "dead letters, as planned": rejected},
        wrong=wrong_exit_codes(codes),
    )


def _jobs(stage: Stage, groups: int, each: int) -> Iterator[Job]:
    """Yield the first message of each group, then the second, and so on."""
    for number in range(each):
        for group in range(groups):
            chance = stage.random.random()
            is_rejected = chance < FAILING_ALWAYS
            times = ALWAYS if is_rejected else chance < FAILING_ALWAYS + FAILING_ONCE
            yield Job(
                work_seconds=stage.random.uniform(0, 0.02),
                failures={"job": int(times)},
                group=f"group-{group}",
                number=number,
                rejected=is_rejected,
            )
