"""The checker of outbox and inbox, on evidence made by hand: each finding is shown, and missed by a hair."""

from __future__ import annotations

from math import inf

import pytest

from chaos.checker import KILL, STORE_OUTAGE, Fault, Findings
from chaos.journal import MARKED, PUBLISHED, Record
from chaos.outbox.checker import Committed, OutboxEvidence, check_outbox, second_publications

ANNE, BERT = 1, 2  # process ids
COMMITTED = (Committed("a1", "a", 1), Committed("a2", "a", 2), Committed("b1", "b", 1))


def evidence(
    arrivals: str = "a1 a2 b1", effects: str | None = "a1 a2 b1", *records: Record, **facts: object
) -> OutboxEvidence:
    return OutboxEvidence(
        COMMITTED,
        arrivals.split(),
        None if effects is None else effects.split(),
        records,
        **facts,  # type: ignore[arg-type]
    )


def judged(*arguments: object, **facts: object) -> Findings:
    return check_outbox(evidence(*arguments, **facts))  # type: ignore[arg-type]


def published(
    process_number: int, at: float, *, read_at: float | None = None, asked_at: float | None = None
) -> Record:
    """A publication of the first message, read two seconds and asked for one second before its answer."""
    read_at = at - 2 if read_at is None else read_at
    asked_at = at - 1 if asked_at is None else asked_at
    return Record(at, process_number, PUBLISHED, "a1", token=str(read_at), asked_at=asked_at)


def marked(process_number: int, at: float) -> Record:
    return Record(at, process_number, MARKED)


def test_each_message_once_in_order_is_all_there_should_be() -> None:
    assert not any(judged().counts().values())


def test_order_is_promised_within_a_key_only() -> None:
    assert not any(judged("b1 a1 a2").counts().values())


def test_a_message_that_never_arrived_is_lost() -> None:
    assert judged("a1 b1", None).lost == [("a2", "arrival")]


def test_a_message_that_arrived_and_had_no_effect_is_lost() -> None:
    assert judged("a1 a2 b1", "a1 b1").lost == [("a2", "effect")]


def test_without_consumers_no_effects_are_missed() -> None:
    assert not judged("a1 a2 b1", None).wrong()


def test_what_was_not_committed_and_arrived_is_a_ghost_however_often_it_came() -> None:
    assert judged("a1 ghost a2 ghost b1").unexpected == [("ghost", "arrival")]


def test_an_effect_of_what_was_not_committed_is_one_too() -> None:
    assert judged("a1 a2 b1", "a1 a2 b1 ghost").unexpected == [("ghost", "effect")]


def test_a_message_that_overtakes_one_of_its_key_is_out_of_order() -> None:
    assert judged("a2 a1 b1").wrong() == {"out_of_order": 1}


def test_a_message_that_comes_again_after_a_later_one_is_not() -> None:
    assert not judged("a1 a2 a1 b1").wrong()


def test_a_ghost_between_them_is_not_out_of_order() -> None:
    assert judged("a1 ghost a2 b1").out_of_order == []


def test_a_second_effect_is_never_explained() -> None:
    findings = judged("a1 a2 b1", "a1 a1 a1 a2 b1", faults=[Fault(KILL, 0, inf, ANNE)])

    assert findings.wrong() == {"unexplained_duplicates": 2}


def test_what_is_left_in_outbox_and_queue_is_stuck() -> None:
    assert judged(unsent=1, left=2).stuck == 3


def test_dead_letters_are_not_to_be_there() -> None:
    assert judged(dead_letters=["a1"]).wrong() == {"wrongly_dead_lettered": 1}


# --- published again ------------------------------------------------------------------------------

TWICE = "a1 a2 b1", "a1 a2 b1", published(ANNE, 10), published(BERT, 20)


def test_a_relay_killed_between_publishing_and_marking_explains_that_it_was_published_again() -> None:
    facts = evidence(*TWICE, faults=[Fault(KILL, 11, inf, ANNE)])

    assert not check_outbox(facts).wrong()
    assert len(list(second_publications(facts))) == 1


def test_so_does_a_database_that_was_away() -> None:
    assert not judged(*TWICE, faults=[Fault(STORE_OUTAGE, 11, 12)]).wrong()


def test_so_does_one_that_came_back_while_a_call_was_in_flight() -> None:
    facts = *TWICE[:2], published(ANNE, 10, read_at=7, asked_at=8), published(BERT, 20)

    assert not judged(*facts, faults=[Fault(STORE_OUTAGE, 8.5, 9)]).wrong()


def test_not_so_for_a_relay_that_went_on_publishing_without_its_connection() -> None:
    facts = *TWICE[:2], published(ANNE, 20, read_at=7, asked_at=19), published(BERT, 30)

    findings = judged(*facts, faults=[Fault(STORE_OUTAGE, 10, 11)])

    assert findings.wrong() == {"unexplained_duplicates": 1}


def test_not_so_for_a_message_that_was_marked_when_the_later_relay_read_it() -> None:
    findings = judged(*TWICE, marked(ANNE, 13), faults=[Fault(STORE_OUTAGE, 11, 12)])

    assert findings.wrong() == {"unexplained_duplicates": 1}


def test_it_is_if_the_later_relay_had_read_it_before_the_mark() -> None:
    facts = *TWICE[:2], published(ANNE, 10), published(BERT, 20, read_at=12.5), marked(ANNE, 13)

    assert not judged(*facts, faults=[Fault(STORE_OUTAGE, 11, 12)]).wrong()


def test_a_later_relay_that_lost_its_locks_in_flight_explains_it_though_the_other_has_marked_it() -> None:
    zombie = published(ANNE, 20, read_at=5, asked_at=9)
    facts = *TWICE[:2], published(BERT, 15, read_at=13), marked(BERT, 16), zombie

    assert not judged(*facts, faults=[Fault(STORE_OUTAGE, 10, 12)]).wrong()


def test_not_so_if_its_call_began_after_the_loss() -> None:
    zombie = published(ANNE, 20, read_at=5, asked_at=19)
    facts = *TWICE[:2], published(BERT, 15, read_at=13), marked(BERT, 16), zombie

    findings = judged(*facts, faults=[Fault(STORE_OUTAGE, 10, 12)])

    assert findings.wrong() == {"unexplained_duplicates": 1}


def test_each_publication_before_has_to_be_explained() -> None:
    """The first one was not marked because of an outage, but the second one was marked."""
    facts = *TWICE, marked(BERT, 21), published(ANNE, 30)

    findings = judged(*facts, faults=[Fault(STORE_OUTAGE, 11, 12)])

    assert findings.wrong() == {"unexplained_duplicates": 1}
    assert len(list(second_publications(evidence(*facts)))) == 2


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(KILL, 11, inf, BERT), id="the other relay's death"),
        pytest.param(Fault(KILL, 21, inf, ANNE), id="a death after both"),
        pytest.param(Fault(STORE_OUTAGE, -20, -10), id="an outage long before both"),
        pytest.param(Fault(STORE_OUTAGE, 21, 22), id="an outage after both"),
    ],
)
def test_other_faults_do_not(fault: Fault) -> None:
    assert judged(*TWICE, faults=[fault]).wrong() == {"unexplained_duplicates": 1}


def test_nor_does_the_death_of_a_relay_that_had_marked_it() -> None:
    findings = judged(*TWICE, marked(ANNE, 10.5), faults=[Fault(KILL, 11, inf, ANNE)])

    assert findings.wrong() == {"unexplained_duplicates": 1}


def test_a_mark_of_another_batch_says_nothing() -> None:
    findings = judged(*TWICE, marked(ANNE, 9), faults=[Fault(KILL, 11, inf, ANNE)])

    assert not findings.wrong()
