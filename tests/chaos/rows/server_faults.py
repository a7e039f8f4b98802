"""melange's own server has its bad days: it refuses, fails, hangs, and answers late, in part, or not at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from chaos.checker import check
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage
from melange.server import Server

FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "drop-request", "rate": 0.05},
    {"kind": "drop-answer", "rate": 0.04},
    {"kind": "cut-answer", "rate": 0.02},
    {"kind": "partial", "rate": 0.05},
    {"kind": "repeat", "rate": 0.02},
    {"kind": "throttle", "rate": 0.01},
    {"kind": "error", "rate": 0.01},
    {"kind": "error", "rate": 0.01, "status": 503},
    {"kind": "delay", "rate": 0.01, "seconds": 1.0},
    {"kind": "hang", "rate": 0.005, "seconds": 1.5},
)


def server_faults(services: Services, seed: int, *, messages: int, workers: int) -> RowResult:
    """Publish and consume at a port with faults. The judge has a port of its own to the same broker, without any."""
    with (
        Server() as plain,
        Server(plain.broker) as disturbed,
        Stage(
            replace(services, sns_sqs_url=plain.url), "server faults", seed, endpoint_url=disturbed.url
        ) as stage,
    ):
        for number, options in enumerate(FAULTS):
            disturbed.faults.add(**options, seed=seed * 100 + number)
        stage.start_workers(workers)
        stage.publish(Job(work_seconds=stage.random.uniform(0, 0.05)) for _ in range(messages))
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence(one_copy_each=False)
        struck: Counter[str] = Counter()
        for fault in disturbed.faults.all():
            struck[fault.kind] += fault.struck
    idle = [f"the fault {kind} has struck no call" for kind, count in struck.items() if not count]
    return RowResult(
        load=f"{messages:,} messages, {workers} workers, {struck.total():,} calls disturbed",
        findings=check(evidence),
        measured=struck,
        wrong=wrong_exit_codes(codes) + (idle if messages >= 5_000 else []),
    )
