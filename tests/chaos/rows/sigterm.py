"""Workers get SIGTERM while they work, again and again."""

from __future__ import annotations

import signal
import time

from chaos.checker import check
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

GRACE_SECONDS = 10.0
JOBS_EACH = 60


def sigterm(services: Services, seed: int, *, stops: int) -> RowResult:
    """One worker at a time, so that what is invisible after its end was left behind by it."""
    codes: list[int] = []
    longest_seconds, invisible = 0.0, 0
    # What is left behind stays invisible for long enough to be seen.
    with Stage(
        services, "sigterm", seed, visibility_timeout_seconds=30, grace_seconds=GRACE_SECONDS
    ) as stage:
        for number in range(stops):
            stage.tell(f"stop {number + 1} of {stops}")
            stage.publish(Job(work_seconds=stage.random.uniform(0, 0.5)) for _ in range(JOBS_EACH))
            worker = stage.start_worker()
            stage.wait_for(worker.has_polled, "the worker to poll")
            stage.let_pass(0, 0.5)
            began_at = time.monotonic()
            worker.send(signal.SIGTERM)
            codes.append(worker.wait())
            longest_seconds = max(longest_seconds, time.monotonic() - began_at)
            invisible += stage.in_flight()
        stage.start_workers(2)
        stage.wait_until_empty()
        codes += stage.stop_workers()
        evidence = stage.evidence()
    wrong = wrong_exit_codes(codes)
    if invisible:
        wrong.append(f"{invisible} messages left invisible")
    if longest_seconds > GRACE_SECONDS + 1:
        wrong.append(f"a stop took {longest_seconds:.1f} s")
    return RowResult(
        load=f"{stops} SIGTERMs under load, grace {GRACE_SECONDS:g} s",
        findings=check(evidence),
        measured={"left invisible": invisible, "longest stop": f"{longest_seconds:.1f} s"},
        wrong=wrong,
    )
