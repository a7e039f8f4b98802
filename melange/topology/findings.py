"""What a diagnosis of a topology finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

APPLY = "melange topology apply {target}"
PRUNE = "melange topology apply {target} --prune"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. ``remedy`` is a command, with ``{target}`` for the program, or what to change.

    A note is not a fault of the topology: something that a person should know.
    """

    check: str
    severity: Severity
    resource: str
    problem: str
    reason: str
    remedy: str

    def to_document(self, target: str) -> dict[str, Any]:
        """Return the finding as JSON values, with the target in its remedy."""
        return {
            "check": self.check,
            "severity": self.severity,
            "resource": self.resource,
            "problem": self.problem,
            "reason": self.reason,
            "remedy": self.remedy_for(target),
        }

    def remedy_for(self, target: str) -> str:
        """Return the remedy with the name of the program."""
        return self.remedy.replace("{app}", app_option(target)).replace("{target}", target)


def app_option(target: str) -> str:
    """Return the option by which ``melange dead-letters`` finds the broker of the target; "" for files."""
    first = target.split(" ", 1)[0]
    return "" if first.endswith(".json") else f" --app {first}"
