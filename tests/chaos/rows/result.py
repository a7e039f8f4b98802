"""The result of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chaos.checker import Evidence, Findings
from chaos.journal import BEGAN, EFFECT, FAILED


@dataclass(frozen=True)
class RowResult:
    """What was done, what was found, what else was measured, and what else is wrong."""

    load: str
    findings: Findings
    measured: Mapping[str, object] = field(default_factory=dict)
    wrong: Sequence[str] = ()

    def complaints(self) -> list[str]:
        """Return everything that is wrong, as text."""
        return [f"{name}: {count}" for name, count in self.findings.wrong().items()] + list(self.wrong)


def killed_listeners(evidence: Evidence) -> int:
    """Count the runs of listeners that neither ended nor failed. They show that the kills met workers at work."""
    kinds = Counter(record.kind for record in evidence.records)
    return kinds[BEGAN] - kinds[EFFECT] - kinds[FAILED]


def wrong_exit_codes(codes: Sequence[int]) -> list[str]:
    """Return what is wrong with the exit codes of workers that were stopped."""
    return [f"a stopped worker exited with {code}" for code in codes if code != 0]
