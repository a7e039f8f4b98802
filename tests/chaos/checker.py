"""Compare what was published with what the workers recorded. The checker does no I/O and sees only the facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from math import inf
from typing import NamedTuple

from chaos.journal import (
    ACKNOWLEDGED,
    BEGAN,
    CLAIMED,
    COMPLETED,
    EFFECT,
    FAILED,
    RECEIVED,
    Record,
)

KILL = "kill"
PAUSE = "pause"
STORE_OUTAGE = "store outage"

Pair = tuple[str, str]
"""A message id and the name of a listener."""


class Expected(NamedTuple):
    """A message that was published, and what should become of it.

    ``rejected`` ones belong among the dead letters, without an effect of any listener. ``number`` is the place
    in the group.
    """

    message_id: str
    listeners: tuple[str, ...]
    group: str | None = None
    number: int = 0
    rejected: bool = False


class Fault(NamedTuple):
    """What was done to a worker (``process_number``) or to the store. What is gone for good has no end (``inf``)."""

    kind: str
    began_at: float
    ended_at: float
    process_number: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run. ``left`` counts the messages that are still in the queue."""

    expected: Sequence[Expected]
    records: Sequence[Record]
    dead_letters: Collection[str] = ()
    faults: Sequence[Fault] = ()
    left: int = 0
    one_copy_each: bool = True
    """False when the broker was made to hold copies, each of which counts its own receipts."""


@dataclass
class Findings:
    """Message ids, or (message id, listener), by what is wrong with them. Explained duplicates are not wrong."""

    lost: list[Pair] = field(default_factory=list)
    stuck: int = 0
    unexpected: list[Pair] = field(default_factory=list)
    unexplained_duplicates: list[Pair] = field(default_factory=list)
    explained_duplicates: list[Pair] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    two_at_once: list[str] = field(default_factory=list)
    wrongly_dead_lettered: list[str] = field(default_factory=list)
    stale_completes: list[Pair] = field(default_factory=list)
    stale_acknowledges: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each kind."""
        return {one.name: _count(getattr(self, one.name)) for one in fields(self)}

    def wrong(self) -> dict[str, int]:
        """Return the counts that should be 0 and are not."""
        return {
            name: count for name, count in self.counts().items() if count and name != "explained_duplicates"
        }


@dataclass
class Run:
    """One run of a listener; infinite times are of what never came. ``asked_at`` is when it asked for its claim."""

    process_number: int
    asked_at: float
    began_at: float
    ended_at: float = inf
    completed_at: float = inf
    has_effect: bool = False


def check(evidence: Evidence) -> Findings:
    """Return what is wrong."""
    runs = _runs(evidence.records)
    findings = Findings(stuck=evidence.left)
    _check_effects(evidence, runs, findings)
    _check_dead_letters(evidence, findings)
    _check_groups(evidence, runs, findings)
    findings.stale_completes = _stale_completes(evidence.records)
    if evidence.one_copy_each:
        findings.stale_acknowledges = _stale_acknowledges(evidence.records)
    return findings


def _count(value: object) -> int:
    return value if isinstance(value, int) else len(value)  # type: ignore[arg-type]


def _runs(records: Iterable[Record]) -> dict[Pair, list[Run]]:
    runs: defaultdict[Pair, list[Run]] = defaultdict(list)
    latest: dict[tuple[int, Pair], Run] = {}
    asked_at: dict[tuple[int, Pair], float] = {}
    for record in records:
        pair = (record.message_id, record.listener)
        if record.kind == CLAIMED:
            asked_at[record.process_number, pair] = record.asked_at
        elif record.kind == BEGAN:
            claim_asked_at = asked_at.get((record.process_number, pair), record.at)
            run = latest[record.process_number, pair] = Run(record.process_number, claim_asked_at, record.at)
            runs[pair].append(run)
        elif record.kind in {EFFECT, FAILED}:
            run = latest[record.process_number, pair]
            run.ended_at, run.has_effect = record.at, record.kind == EFFECT
        elif record.kind == COMPLETED and (record.process_number, pair) in latest:
            latest[record.process_number, pair].completed_at = record.at
    return runs


def _check_effects(evidence: Evidence, runs: dict[Pair, list[Run]], findings: Findings) -> None:
    wanted = {
        (one.message_id, listener)
        for one in evidence.expected
        if not one.rejected
        for listener in one.listeners
    }
    effects = {pair: [run for run in of_pair if run.has_effect] for pair, of_pair in runs.items()}
    gone = set(evidence.dead_letters)
    findings.lost += [pair for pair in wanted if not effects.get(pair) and pair[0] not in gone]
    for pair, of_pair in effects.items():
        if of_pair and pair not in wanted:
            findings.unexpected.append(pair)
        for earlier, later in pairwise(of_pair):
            kind = (
                findings.explained_duplicates
                if _is_explained(earlier, later, evidence.faults)
                else findings.unexplained_duplicates
            )
            kind.append(pair)


def _is_explained(earlier: Run, later: Run, faults: Iterable[Fault]) -> bool:
    """Tell whether a fault kept the earlier run from being marked, or may have lost its mark, before the later."""
    return any(
        fault.began_at <= later.ended_at
        and fault.ended_at >= earlier.asked_at
        and (
            fault.kind == STORE_OUTAGE
            or (fault.process_number == earlier.process_number and fault.began_at < earlier.completed_at)
            # Held up between its claim and its beginning, and gone on when another had done it.
            or (
                fault.kind == PAUSE
                and fault.process_number == later.process_number
                and fault.ended_at >= later.asked_at
            )
        )
        for fault in faults
    )


def _check_dead_letters(evidence: Evidence, findings: Findings) -> None:
    rejected = {one.message_id: one for one in evidence.expected if one.rejected}
    findings.wrongly_dead_lettered += [one for one in evidence.dead_letters if one not in rejected]
    missing = rejected.keys() - set(evidence.dead_letters)
    findings.lost += [(one, listener) for one in missing for listener in rejected[one].listeners]


def _check_groups(evidence: Evidence, runs: dict[Pair, list[Run]], findings: Findings) -> None:
    died_at = {fault.process_number: fault.began_at for fault in evidence.faults if fault.kind == KILL}
    groups: defaultdict[str, list[tuple[float, float, Expected]]] = defaultdict(list)
    for one in evidence.expected:
        if one.group is None:
            continue
        for listener in one.listeners:
            for run in runs.get((one.message_id, listener), ()):
                ended_at = min(run.ended_at, died_at.get(run.process_number, inf))
                groups[one.group].append((run.began_at, ended_at, one))
    for turns in groups.values():
        turns.sort(key=lambda turn: turn[0])
        for (_, ended_at, earlier), (began_at, _, later) in pairwise(turns):
            if later.number < earlier.number:
                findings.out_of_order.append(later.message_id)
            if began_at < ended_at:
                findings.two_at_once.append(later.message_id)


def _stale_completes(records: Iterable[Record]) -> list[Pair]:
    """Return the marks that were accepted of a claim after another had taken the message over.

    A worker may be paused before it writes down what it was granted: only a claim that was asked for after the
    other was written down is later for certain.
    """
    claims: defaultdict[Pair, dict[str, Record]] = defaultdict(dict)
    stale: list[Pair] = []
    for record in records:
        pair = (record.message_id, record.listener)
        if record.kind == CLAIMED:
            claims[pair].setdefault(record.token, record)
        elif record.kind == COMPLETED:
            own_at = claims[pair][record.token].at
            if any(own_at < one.asked_at and one.at < record.asked_at for one in claims[pair].values()):
                stale.append(pair)
    return stale


def _stale_acknowledges(records: Iterable[Record]) -> list[str]:
    """Return the messages that were acknowledged with one receipt after another worker had a later one.

    The broker's receive count, their token, tells which receipt is later.
    """
    receipts: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    stale: list[str] = []
    for record in records:
        of_message = receipts[record.message_id]
        if record.kind == RECEIVED:
            of_message.append((record.at, int(record.token)))
        elif record.kind == ACKNOWLEDGED and any(
            at < record.asked_at and count > int(record.token) for at, count in of_message
        ):
            stale.append(record.message_id)
    return stale
