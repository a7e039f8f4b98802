"""The outbox's database is killed and comes back, and the way to the broker is broken all the while."""

from __future__ import annotations

from urllib.parse import urlsplit

from chaos.outbox.checker import check_outbox
from chaos.outbox.stage import OutboxStage
from chaos.proxy import disturbing
from chaos.rows.broker_faults import RATES
from chaos.rows.outbox import measured
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services


def outbox_outages(
    services: Services, seed: int, *, transactions: int, outages: int, writers: int, consumers: int
) -> RowResult:
    """Kill PostgreSQL, with writers, relays and consumers in the middle of their transactions."""
    port = urlsplit(services.sns_sqs_url).port
    assert port
    with (
        disturbing(port, RATES, seed) as proxy,
        OutboxStage(
            services,
            "outbox outages",
            seed,
            endpoint_url=f"http://127.0.0.1:{proxy.port}",
            transactions=transactions,
            keys=50,
            lanes=writers,
        ) as stage,
    ):
        stage.start_all(lanes=range(writers), relays=2, consumers=consumers)
        for number in range(outages):
            stage.wait_until_begun(transactions * (number + 1) // (outages + 1))
            stage.restart_postgres(stage.random.uniform(0.2, 2))
        stage.wait_until_done()
        codes = stage.stop()
        evidence = stage.evidence()
    return RowResult(
        load=f"{transactions:,} transactions of {writers} writers, 2 relays, {consumers} consumers, FIFO; {outages} kills "
        f"and restarts of PostgreSQL, 15 % of {proxy.happened.total():,} requests to the broker disturbed",
        findings=check_outbox(evidence),
        measured=measured(evidence),
        wrong=wrong_exit_codes(codes),
    )
