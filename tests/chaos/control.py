"""A negative control: something broken on purpose, which the checker has to catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.checker import Findings
from chaos.scene import Services


@dataclass(frozen=True)
class Control:
    """How it is broken, the scenario that brings it to light, and the finding that does."""

    sabotage: str
    scenario: Callable[..., Findings]
    caught_by: str

    def is_caught(self, services: Services) -> bool:
        """Run the scenario with the sabotage; return True if the checker notices."""
        return self.caught_by in self.scenario(services, self.sabotage).wrong()
