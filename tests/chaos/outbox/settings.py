"""What the processes of a run are told."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import NamedTuple

ROLLED_BACK = 0.2
"""The share of the transactions that are rolled back on purpose."""


@dataclass(frozen=True)
class OutboxSettings:
    """The same for all of a run, but for the writers' lanes.

    ``database_url`` is of writers and relays, ``effects_url`` of consumers. A writer takes every ``lanes``-th
    transaction from ``first`` on. ``sabotage`` names the negative control that is built in.
    """

    database_url: str
    effects_url: str
    endpoint_url: str
    topic: str
    queue: str
    journals: str
    seed: str
    transactions: int
    keys: int
    lanes: int
    first: int = 0
    longest_pause_seconds: float = 0.06
    longest_open_seconds: float = 0.02
    batch_size: int = 20
    concurrency: int = 10
    sabotage: str = ""

    def to_text(self) -> str:
        """Return it as a process's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> OutboxSettings:
        """Read what ``to_text`` wrote."""
        return cls(**json.loads(text))


class Plan(NamedTuple):
    """What a transaction does: an event for each key, sorted so that no two wait for one another."""

    keys: list[str]
    is_rolled_back: bool = False
    pause_seconds: float = 0.0
    open_seconds: float = 0.0


def plan_of(settings: OutboxSettings, number: int) -> Plan:
    """Return what the seed says of a transaction."""
    chance = random.Random(f"{settings.seed} {number}")
    keys = chance.choices([f"key-{number}" for number in range(settings.keys)], k=chance.randint(1, 3))
    return Plan(
        sorted(keys),
        chance.random() < ROLLED_BACK,
        chance.uniform(0, settings.longest_pause_seconds),
        chance.uniform(0, settings.longest_open_seconds),
    )
