"""Negative controls of the runs inside this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chaos.inside.bounded import UNBOUNDED
from chaos.inside.simulation import RECEIVES_AS_ATTEMPTS
from chaos.rows.attempts import attempts
from chaos.rows.backpressure import backpressure
from chaos.rows.hang import NO_TIME_LIMIT, hang
from chaos.rows.result import RowResult
from chaos.scene import Services

SEED = 1


@dataclass(frozen=True)
class InsideControl:
    """How a consumer is broken, the run that shows it, and how the complaint about it begins."""

    sabotage: str
    run: Callable[..., RowResult]
    caught_by: str

    def is_caught(self, services: Services) -> bool:
        """Run it; return True if the complaint is made."""
        result = self.run(services, SEED, sabotage=self.sabotage)
        return any(one.startswith(self.caught_by) for one in result.complaints())


CONTROLS = (
    InsideControl(
        RECEIVES_AS_ATTEMPTS,
        partial(
            attempts, minutes=4, messages=200, speed=40, visibility_timeout_seconds=120, busy_processes=0
        ),
        caught_by="wrongly_dead_lettered",
    ),
    InsideControl(
        UNBOUNDED,
        partial(backpressure, groups=300, each=1, slow=300, seconds=1),
        caught_by="in flight",
    ),
    InsideControl(
        NO_TIME_LIMIT,
        partial(
            hang, messages=100, hanging=10, timeout_seconds=0.5, silence_seconds=1.0, patience_seconds=3.0
        ),
        caught_by="stuck",
    ),
)
