"""Relays and consumers die at named points in the code."""

from __future__ import annotations

from chaos.journal import PUBLISHED
from chaos.outbox.checker import check_outbox, second_publications
from chaos.outbox.settings import Plan
from chaos.outbox.stage import CONSUMER, RELAY, OutboxStage
from chaos.outbox.tables import Effect
from chaos.outbox.writer import writer
from chaos.rows.result import RowResult, wrong_exit_codes
from chaos.scene import Services
from melange.outbox import InboxMark

RELAY_POINTS = {
    "before-outbox-publish": (False, False),
    "before-outbox-mark": (True, False),
    "after-outbox-mark": (True, True),
}
"""Whether all that was pending is published, and whether all of it is marked, when a relay has died there."""
CONSUMER_POINTS = {"after-effect": 0, "before-mark": 0, "after-mark": 1}
"""How many effects there are more, each with its mark, when a consumer has died there."""
TRANSACTION = Plan(["key-0", "key-0", "key-1"])


def outbox_fail_points(services: Services, seed: int, *, deaths_each: int) -> RowResult:
    """On a standard topic, which hides no second publication: the inbox has to see to it."""
    wrong: list[str] = []
    specified = 0
    with OutboxStage(
        services, "outbox fail points", seed, is_fifo=False, transactions=0, keys=2, lanes=1, concurrency=1
    ) as stage:
        with writer(stage.settings) as one:
            for number, point in enumerate(list(RELAY_POINTS) * deaths_each):
                stage.tell(f"death {number + 1} of relays, at {point}")
                one.run(number, TRANSACTION)
                pending = stage.unsent()
                wrong += _relay_died_at(stage, point, pending)
                specified += pending if RELAY_POINTS[point] == (True, False) else 0
        for number, point in enumerate(list(CONSUMER_POINTS) * deaths_each):
            stage.tell(f"death {number + 1} of consumers, at {point}")
            wrong += _consumer_died_at(stage, point)
        stage.start_all(lanes=(), relays=1, consumers=1)
        stage.wait_until_done()
        wrong += wrong_exit_codes(stage.stop())
        evidence = stage.evidence()
    again = sum(1 for _ in second_publications(evidence))
    if again != specified:
        wrong.append(f"{again} messages published again instead of {specified}")
    return RowResult(
        load=f"{len(RELAY_POINTS)} points of relays and {len(CONSUMER_POINTS)} of consumers, {deaths_each} deaths at each",
        findings=check_outbox(evidence),
        measured={"messages committed": len(evidence.committed), "published again, as specified": again},
        wrong=wrong,
    )


def _relay_died_at(stage: OutboxStage, point: str, pending: int) -> list[str]:
    """Let a relay die; return what is not as specified."""
    relay = stage.start_one(RELAY, point)
    died = stage.await_death(relay)
    found = died, relay.count(PUBLISHED), pending - stage.unsent()
    are_published, are_marked = RELAY_POINTS[point]
    specified = True, pending * are_published, pending * are_marked
    if found == specified:
        return []
    return [f"(died, published, marked) is {found} at {point} instead of {specified}"]


def _consumer_died_at(stage: OutboxStage, point: str) -> list[str]:
    """Let a consumer die; return what is not as specified."""
    before = stage.count(Effect), stage.count(InboxMark)
    died = stage.await_death(stage.start_one(CONSUMER, point))
    found = died, stage.count(Effect) - before[0], stage.count(InboxMark) - before[1]
    specified = True, CONSUMER_POINTS[point], CONSUMER_POINTS[point]
    if found == specified:
        return []
    return [f"(died, effects, marks) is {found} at {point} instead of {specified}"]
