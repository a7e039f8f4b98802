"""The settings of a worker process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """The same for all workers of a run; ``sabotage`` names the negative control that is built in."""

    endpoint_url: str
    redis_url: str
    topic: str
    queue: str
    journals: str
    listeners: tuple[str, ...] = ("job",)
    visibility_timeout_seconds: int = 2
    wait_seconds: int = 1
    concurrency: int = 10
    grace_seconds: float = 20.0
    max_attempts: int = 25
    sabotage: str = ""

    def to_text(self) -> str:
        """Return it as a process's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Settings:
        """Read what ``to_text`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "listeners": tuple(values["listeners"])})
