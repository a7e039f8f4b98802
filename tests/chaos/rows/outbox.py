"""Writers, relays and consumers are killed while thousands of transactions are written, relayed and consumed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chaos.journal import BEGAN, EFFECT, ROLLED_BACK
from chaos.outbox.checker import OutboxEvidence, check_outbox, second_publications
from chaos.outbox.stage import CONSUMER, RELAY, SQLITE, WRITER, OutboxStage
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services

POINTS = {
    WRITER: ("before-commit", "after-commit"),
    RELAY: ("before-outbox-publish", "before-outbox-mark", "after-outbox-mark"),
    CONSUMER: ("after-effect", "before-mark", "after-mark"),
}
DOOMED = 0.3
"""The share of the processes that are started to die at a fail point by themselves."""
LATEST_PASS = 10


def outbox(
    services: Services,
    seed: int,
    *,
    database: str,
    transactions: int,
    kills: int,
    consumer_kills: int,
    writers: int,
    relays: int,
    consumers: int,
) -> RowResult:
    """Kill evenly over all that is written; FIFO on PostgreSQL, standard on SQLite."""
    settings: dict[str, Any] = {"database": database, "is_fifo": database != SQLITE, "keys": 50}
    if database == SQLITE:  # where each transaction keeps all the others waiting
        settings["longest_open_seconds"] = 0.002
    victims = [WRITER] * (kills // 2) + [RELAY] * (kills - kills // 2) + [CONSUMER] * consumer_kills
    with OutboxStage(
        services, f"outbox {database}", seed, transactions=transactions, lanes=writers, **settings
    ) as stage:
        stage.random.shuffle(victims)
        stage.start_all(lanes=range(writers), relays=relays, consumers=consumers)
        for number, role in enumerate(victims):
            stage.wait_until_begun(transactions * (number + 1) // (len(victims) + 1))
            if worker := stage.one_at_work(role):
                stage.kill(worker)
                stage.replace(worker, _fail_point(stage, role))
        stage.wait_until_done()
        codes = stage.stop()
        evidence = stage.evidence()
    kind = "standard" if database == SQLITE else "FIFO"
    return RowResult(
        load=f"{transactions:,} transactions of {writers} writers, {relays} relays, {consumers} consumers, {kind}; "
        f"SIGKILLs: {kills} of writers and relays, {consumer_kills} of consumers",
        findings=check_outbox(evidence),
        measured={**measured(evidence), "deaths at fail points": stage.fallen},
        wrong=wrong_exit_codes(codes),
    )


def measured(evidence: OutboxEvidence) -> dict[str, object]:
    """Return what shows that there was something to judge."""
    kinds = Counter((record.kind, bool(record.listener)) for record in evidence.records)
    return {
        "messages committed": len(evidence.committed),
        "transactions rolled back": kinds[ROLLED_BACK, False],
        "published again": sum(1 for _ in second_publications(evidence)),
        "listeners killed": kinds[BEGAN, True] - kinds[EFFECT, True],
    }


def _fail_point(stage: OutboxStage, role: str) -> str:
    if stage.random.random() > DOOMED:
        return ""
    return f"{stage.random.choice(POINTS[role])}:{stage.random.randint(1, LATEST_PASS)}"
