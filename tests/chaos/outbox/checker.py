"""The judgement: what was committed, what arrived at the broker, and what the consumers did, compared. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from chaos.checker import KILL, STORE_OUTAGE, Fault, Findings
from chaos.journal import MARKED, PUBLISHED, Record

ARRIVAL = "arrival"
EFFECT = "effect"
PUBLICATION = "publication"

UNNOTICED_SECONDS = 1.0
"""How long the database may be gone, at most, when a relay that has just asked for its locks begins a call."""


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
    """A message that a relay published although one had done so before, and whether faults explain that."""

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
    """Yield what relays are known to have published more than once, once for each time after the first.

    A publication is explained if, for each one before it, there is a fault that kept the earlier relay from marking
    it in time, or that took the locks of the later relay while its call was in flight.
    """
    publications: defaultdict[str, list[_Publication]] = defaultdict(list)
    marks: defaultdict[int, list[float]] = defaultdict(list)
    for record in evidence.records:
        if record.kind == PUBLISHED:
            publications[record.message_id].append(_Publication.of(record))
        elif record.kind == MARKED:
            marks[record.process_number].append(record.at)
    for message_id, times in publications.items():
        second: dict[int, bool] = {}
        for (_, earlier), (number, later) in combinations(enumerate(times), 2):
            second[number] = second.get(number, True) and any(
                _explains(fault, earlier, later, marks[earlier.process_number]) for fault in evidence.faults
            )
        yield from (SecondPublication(message_id, is_explained) for is_explained in second.values())


class _Publication(NamedTuple):
    """When a relay has read a message from the outbox, has begun the call that publishes it, and had the answer."""

    process_number: int
    read_at: float
    asked_at: float
    at: float

    @classmethod
    def of(cls, record: Record) -> _Publication:
        asked_at = record.asked_at or record.at
        return cls(record.process_number, float(record.token or asked_at), asked_at, record.at)


def _explains(fault: Fault, earlier: _Publication, later: _Publication, marks: Iterable[float]) -> bool:
    if fault.kind == KILL:
        is_marked = any(earlier.at < at < later.at for at in marks)
        is_in_time = earlier.asked_at <= fault.ended_at and fault.began_at <= later.at
        return fault.process_number == earlier.process_number and is_in_time and not is_marked
    if fault.kind == STORE_OUTAGE:
        return _lost_before_its_mark(fault, earlier, later, marks) or _lost_in_flight(fault, later)
    return False


def _lost_before_its_mark(
    fault: Fault, earlier: _Publication, later: _Publication, marks: Iterable[float]
) -> bool:
    """Tell whether the connection that the earlier publication would be marked on was lost, and not made up for."""
    return (
        earlier.read_at <= fault.ended_at
        and fault.began_at <= later.read_at
        and _was_asked_with_locks(fault, earlier)
        and not any(earlier.at < at < later.read_at for at in marks)
    )


def _lost_in_flight(fault: Fault, publication: _Publication) -> bool:
    """Tell whether the locks of a publication were lost while its call was in flight."""
    return publication.read_at <= fault.ended_at and (
        fault.began_at <= publication.at and _was_asked_with_locks(fault, publication)
    )


def _was_asked_with_locks(fault: Fault, publication: _Publication) -> bool:
    return publication.asked_at <= fault.began_at + UNNOTICED_SECONDS


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
