"""Requests and answers between melange and the broker get lost, come twice, late, or as errors."""

from __future__ import annotations

from urllib.parse import urlsplit

from chaos.checker import check
from chaos.proxy import (
    DROP_ANSWER,
    DROP_REQUEST,
    DUPLICATE,
    SERVER_ERROR,
    STALL,
    THROTTLE,
    disturbing,
)
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from chaos.stage import Job, Stage

RATES = {
    DROP_REQUEST: 0.05,
    DROP_ANSWER: 0.05,
    DUPLICATE: 0.02,
    THROTTLE: 0.01,
    SERVER_ERROR: 0.01,
    STALL: 0.01,
}


def broker_faults(services: Services, seed: int, *, messages: int, workers: int) -> RowResult:
    """Publish and consume through a proxy; the publishes that come twice make two copies of one message.

    The proxy disturbs nothing until the workers poll: a start that gets no answer in three attempts ends with an error, and
    here nobody would start the process again.
    """
    port = urlsplit(services.sns_sqs_url).port
    assert port
    with (
        disturbing(port, {}, seed) as proxy,
        Stage(services, "broker faults", seed, endpoint_url=f"http://127.0.0.1:{proxy.port}") as stage,
    ):
        stage.start_workers(workers)
        proxy.disturb(RATES)
        stage.publish(Job(work_seconds=stage.random.uniform(0, 0.05)) for _ in range(messages))
        stage.wait_until_empty()
        codes = stage.stop_workers()
        evidence = stage.evidence(one_copy_each=False)
    return RowResult(
        load=f"{messages:,} messages, {workers} workers, 15 % of {proxy.happened.total():,} requests disturbed",
        findings=check(evidence),
        measured=dict(proxy.happened),
        wrong=wrong_exit_codes(codes),
    )
