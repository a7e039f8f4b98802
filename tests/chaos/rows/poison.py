"""Some messages kill every process that works on them; their neighbours must neither die with them nor wait without end."""

from __future__ import annotations

from chaos.checker import check
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

MAX_ATTEMPTS = 5


def poison(services: Services, seed: int, *, messages: int, deadly: int) -> RowResult:
    """Start one worker after the other, each time that one has died, until the queue is empty."""
    with Stage(services, "poison", seed, max_attempts=MAX_ATTEMPTS) as stage:
        jobs = [Job(work_seconds=stage.random.uniform(0, 0.2)) for _ in range(messages)]
        for number in stage.random.sample(range(messages), deadly):
            jobs[number] = Job(work_seconds=0.05, rejected=True, deadly=True)
        stage.publish(jobs)
        most_lives = deadly * MAX_ATTEMPTS + 1
        lives = live_until_empty(stage, most_lives)
        codes = stage.stop_workers()
        evidence = stage.evidence()
    return RowResult(
        load=f"{messages:,} messages, {deadly} of which kill the process, up to {MAX_ATTEMPTS} attempts",
        findings=check(evidence),
        measured={"lives": f"{lives} of at most {most_lives}", "dead letters, as planned": deadly},
        wrong=wrong_exit_codes(codes),
    )


def live_until_empty(stage: Stage, most_lives: int) -> int:
    """Start a worker whenever the last one has died, until the queue is empty; return the number of workers."""
    lives = 0
    while stage.left() and lives < most_lives:
        lives += 1
        stage.tell(f"life {lives}")
        worker = stage.start_worker()
        stage.wait_until_none(lambda: stage.left() if worker.is_alive() else 0, "messages")  # noqa: B023
        if not worker.is_alive():
            stage.await_death(worker)
    return lives
