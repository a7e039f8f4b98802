"""The deduplication store is killed and starts again empty, or stalls for some seconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from chaos.checker import Fault, check
from chaos.journal import BEGAN, CLAIMED, EFFECT, Record
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

RECOVERY_SECONDS = 5.0


def redis_outages(
    services: Services, seed: int, *, messages: int, kills: int, stalls: int, workers: int
) -> RowResult:
    """Disturb Redis while its workers are busy, and wait until work goes on."""
    outages: list[Fault] = []
    with Stage(services, "redis", seed) as stage:
        stage.start_workers(workers)
        is_kill = [True] * kills + [False] * stalls
        stage.random.shuffle(is_kill)
        for number in range(len(is_kill)):
            stage.tell(f"outage {number + 1} of {len(is_kill)}")
            share = messages * (number + 1) // len(is_kill) - messages * number // len(is_kill)
            stage.publish(Job(work_seconds=stage.random.uniform(0, 0.1)) for _ in range(share))
            stage.let_pass(0, 0.5)
            disturb = stage.restart_redis if is_kill[number] else stage.stall_redis
            outage = disturb(stage.random.uniform(1, 4))
            outages.append(outage)
            stage.publish([Job()])  # work to continue with, whatever was finished
            stage.wait_for(partial(_works_again, stage, outage), "an effect")
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence()
    without_store = sum(_ran_without_store(evidence.records, outage) for outage in outages)
    recovery_seconds = max(
        min(_effects_after(evidence.records, one.ended_at)) - one.ended_at for one in outages
    )
    wrong = wrong_exit_codes(codes)
    if without_store:
        wrong.append(f"{without_store} listeners ran while the store was unavailable")
    if recovery_seconds > RECOVERY_SECONDS:
        wrong.append(f"work continued only after {recovery_seconds:.1f} s")
    return RowResult(
        load=f"{messages:,} messages, {kills} kills and restarts of Redis, {stalls} stalls, {workers} workers",
        findings=check(evidence),
        measured={
            "listeners run while the store is unavailable": without_store,
            "longest recovery": f"{recovery_seconds:.1f} s",
        },
        wrong=wrong,
    )


def _works_again(stage: Stage, outage: Fault) -> bool:
    return bool(_effects_after(stage.records(), outage.ended_at))


def _effects_after(records: Sequence[Record], since: float) -> list[float]:
    return [record.at for record in records if record.kind == EFFECT and record.at > since]


def _ran_without_store(records: Sequence[Record], outage: Fault) -> int:
    """Count what began during the outage without a claim from before it."""
    claimed: set[tuple[int, str, str]] = set()
    began = 0
    for record in records:
        key = (record.process_number, record.message_id, record.listener)
        if record.kind == CLAIMED and record.asked_at < outage.began_at:
            claimed.add(key)
        elif record.kind == BEGAN and outage.began_at < record.at < outage.ended_at:
            began += key not in claimed
    return began
