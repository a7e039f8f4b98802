"""The judgement: what was committed, what arrived at the broker, and what the consumers did, compared. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from chaos.checker import KILL, STORE_OUTAGE, Fault, Findings
from chaos.journal import MARKED, PUBLISHED, Record

ARRIVAL = "arrival"
EFFECT = "effect"
PUBLICATION = "publication"

LONGEST_BATCH_SECONDS = 15.0
"""Ten, after which a relay begins no further call, and the last call."""


class Committed(NamedTuple):
    """An event of a transaction that was committed, and its place among those of its key."""

    message_id: str
    key: str
    number: int


@dataclass(frozen=True)
class OutboxEvidence:
    """All that is known of a run.

    ``arrivals`` are the message ids in the order in which the broker had them, each as often as it came;
    ``effects`` are those that consumers wrote down, None if there were no consumers. ``unsent`` counts what is
    still in the outbox, ``left`` what is in the queue.
    """

    committed: Sequence[Committed]
    arrivals: Sequence[str]
    effects: Sequence[str] | None
    records: Sequence[Record]
    dead_letters: Collection[str] = ()
    faults: Sequence[Fault] = ()
    unsent: int = 0
    left: int = 0


class SecondPublication(NamedTuple):
    """A message that a relay published although one had done so before, and whether that one died over it."""

    message_id: str
    is_explained: bool


def check_outbox(evidence: OutboxEvidence) -> Findings:
    """Return what is wrong."""
    committed = {one.message_id for one in evidence.committed}
    findings = Findings(
        stuck=evidence.unsent + evidence.left,
        out_of_order=list(_overtaken(evidence)),
        wrongly_dead_lettered=list(evidence.dead_letters),
    )
    for what, seen in ((ARRIVAL, evidence.arrivals), (EFFECT, evidence.effects)):
        if seen is None:
            continue
        findings.lost += [(one, what) for one in committed.difference(seen)]
        findings.unexpected += [(one, what) for one in set(seen) - committed]
    for message_id, times in Counter(evidence.effects).items():
        findings.unexplained_duplicates += [(message_id, EFFECT)] * (times - 1)
    findings.unexplained_duplicates += [
        (second.message_id, PUBLICATION)
        for second in second_publications(evidence)
        if not second.is_explained
    ]
    return findings


def second_publications(evidence: OutboxEvidence) -> Iterator[SecondPublication]:
    """Yield what relays are known to have published more than once, once for each time after the first."""
    publications: defaultdict[str, list[Record]] = defaultdict(list)
    marked_at: defaultdict[int, list[float]] = defaultdict(list)
    for record in evidence.records:
        if record.kind == PUBLISHED:
            publications[record.message_id].append(record)
        elif record.kind == MARKED:
            marked_at[record.pid].append(record.at)
    for message_id, times in publications.items():
        for earlier, later in pairwise(times):
            marks = marked_at[earlier.pid]
            is_marked = any(earlier.at < at < later.at for at in marks)
            is_explained = _is_explained(earlier, later, evidence.faults, is_marked=is_marked) or any(
                _lost_its_connection(earlier, later, fault, marks) for fault in evidence.faults
            )
            yield SecondPublication(message_id, is_explained)


def _is_explained(earlier: Record, later: Record, faults: Iterable[Fault], *, is_marked: bool) -> bool:
    """Tell whether a fault kept the earlier publication from being marked before the later one."""
    return any(
        earlier.at <= fault.ended_at
        and fault.began_at <= later.at
        and (
            fault.kind == STORE_OUTAGE or (fault.kind == KILL and fault.pid == earlier.pid and not is_marked)
        )
        for fault in faults
    )


def _lost_its_connection(earlier: Record, later: Record, fault: Fault, marks: Iterable[float]) -> bool:
    """Tell whether the database went and came back within the relay's batch, before the publication.

    The connection that the batch would be marked on died with it. A relay that marked anything since has another.
    """
    return (
        fault.kind == STORE_OUTAGE
        and 0 <= earlier.at - fault.ended_at <= LONGEST_BATCH_SECONDS
        and not any(fault.began_at < at < later.at for at in marks)
    )


def _overtaken(evidence: OutboxEvidence) -> Iterator[str]:
    """Yield the messages that came for the first time after a later one of their key."""
    known = {one.message_id: one for one in evidence.committed}
    highest: Counter[str] = Counter()
    for message_id in dict.fromkeys(evidence.arrivals):
        one = known.get(message_id)
        if one is None:
            continue
        if one.number < highest[one.key]:
            yield message_id
        highest[one.key] = max(highest[one.key], one.number)
