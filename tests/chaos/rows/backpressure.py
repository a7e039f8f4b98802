"""What is received and not settled stays within its bound, whatever keeps it from being settled."""

from __future__ import annotations

import time
from collections.abc import Callable

from chaos.checker import Findings
from chaos.inside.bounded import BOUND, GRACE_SECONDS, BoundedQueue
from chaos.rows.result import RowResult
from chaos.scene import Services

ACKNOWLEDGE_SECONDS = 1.0
PATIENCE_SECONDS = 30.0


def backpressure(
    services: Services, seed: int, *, groups: int, each: int, slow: int, seconds: float, sabotage: str = ""
) -> RowResult:
    """Load a FIFO queue without its downstream service, and a standard queue with slow acknowledgements."""
    del seed  # nothing here is left to chance
    fifo = BoundedQueue("groups.fifo", sabotage=sabotage)
    fifo.publish(groups, each)
    fifo.is_downstream_available = False
    services.tell("backpressure: downstream unavailable")
    fifo.work_while(_for(seconds))
    fifo.is_downstream_available = True
    services.tell("backpressure: downstream available")
    fifo.work_while(_until_empty(fifo))
    acknowledging = BoundedQueue("slow", acknowledge_seconds=ACKNOWLEDGE_SECONDS, sabotage=sabotage)
    acknowledging.publish(1, slow)
    services.tell("backpressure: slow acknowledgements")
    acknowledging.work_while(_for(seconds))
    effects = sum(map(len, fifo.effects.values()))
    return RowResult(
        load=f"{groups:,} FIFO groups of {each} without a downstream service for {seconds:g} s, then with it; {slow:,} "
        f"messages with acknowledgements of {ACKNOWLEDGE_SECONDS:g} s for {seconds:g} s",
        findings=Findings(
            lost=[("", "")] * (groups * each - fifo.left - effects),
            stuck=fifo.left,
            out_of_order=fifo.out_of_order(),
        ),
        measured={
            "most in flight": f"{fifo.driver.most_held} and {acknowledging.driver.most_held}, bound {BOUND}",
            "leases lost": fifo.leases_lost + acknowledging.leases_lost,
            "longest stops": f"{fifo.longest_stop_seconds:.1f} and {acknowledging.longest_stop_seconds:.1f} s, "
            f"grace {GRACE_SECONDS:g} s",
        },
        wrong=[*fifo.wrong, *acknowledging.wrong],
    )


def _for(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() < until


def _until_empty(queue: BoundedQueue) -> Callable[[], bool]:
    """Return a function that is true while the queue has messages and their number still falls."""
    fewest, since = queue.left, time.monotonic()

    def goes_on() -> bool:
        nonlocal fewest, since
        left = queue.left
        if left < fewest:
            fewest, since = left, time.monotonic()
        return bool(left) and time.monotonic() - since < PATIENCE_SECONDS

    return goes_on
