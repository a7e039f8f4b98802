"""The checker, on journals made by hand: each finding has a journal that shows it, and one that comes near it."""

from __future__ import annotations

from math import inf

import pytest

from chaos.checker import KILL, PAUSE, STORE_OUTAGE, Evidence, Expected, Fault, Findings, check
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

ANNE, BERT = 1, 2  # process ids
JOB = Expected("m", ("job",))


def ran(
    process_number: int,
    at: float,
    message_id: str = "m",
    *,
    end: str | None = EFFECT,
    seconds: float = 1.0,
    is_marked: bool = True,
) -> list[Record]:
    """Return the records of one run, from ``at`` to ``at + seconds``."""
    key = (message_id, "job")
    records = [
        Record(at, process_number, CLAIMED, *key, f"claim-{process_number}-{at}", at - 0.1),
        Record(at, process_number, BEGAN, *key),
    ]
    if end:
        records.append(Record(at + seconds, process_number, end, *key))
    if end == EFFECT and is_marked:
        done_at = at + seconds
        records.append(
            Record(
                done_at + 0.2, process_number, COMPLETED, *key, f"claim-{process_number}-{at}", done_at + 0.1
            )
        )
    return records


def judged(*runs: list[Record], expected: tuple[Expected, ...] = (JOB,), **facts: object) -> Findings:
    """Return the findings of these runs."""
    records = sorted(record for run in runs for record in run)
    return check(Evidence(expected, records, **facts))  # type: ignore[arg-type]


def test_one_effect_of_each_expected_message_is_all_there_should_be() -> None:
    findings = judged(ran(ANNE, 10))

    assert not any(findings.counts().values())


def test_no_effect_is_a_loss() -> None:
    assert judged().wrong() == {"lost": 1}


def test_a_run_that_failed_is_no_effect() -> None:
    assert judged(ran(ANNE, 10, end=FAILED)).wrong() == {"lost": 1}


def test_each_listener_counts() -> None:
    findings = judged(ran(ANNE, 10), expected=(Expected("m", ("job", "other")),))

    assert findings.lost == [("m", "other")]


def test_what_is_left_in_the_queue_is_stuck() -> None:
    assert judged(ran(ANNE, 10), left=2).wrong() == {"stuck": 2}


def test_an_effect_of_what_was_never_published_is_unexpected() -> None:
    assert judged(ran(ANNE, 10), ran(ANNE, 20, "stranger")).unexpected == [("stranger", "job")]


def test_an_effect_of_what_should_be_rejected_is_unexpected() -> None:
    expected = (Expected("m", ("job",), rejected=True),)

    findings = judged(ran(ANNE, 10), expected=expected, dead_letters={"m"})

    assert findings.wrong() == {"unexpected": 1}


# --- duplicates -------------------------------------------------------------------------------------


def test_a_second_effect_without_a_fault_is_unexplained() -> None:
    assert judged(ran(ANNE, 10), ran(BERT, 20)).wrong() == {"unexplained_duplicates": 1}


def test_a_kill_between_effect_and_mark_explains_a_second_effect() -> None:
    findings = judged(ran(ANNE, 10, is_marked=False), ran(BERT, 20), faults=[Fault(KILL, 11.05, inf, ANNE)])

    assert findings.explained_duplicates == [("m", "job")]
    assert not findings.wrong()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(KILL, 11.3, inf, ANNE), id="after the mark"),
        pytest.param(Fault(KILL, 11.05, inf, BERT), id="of another worker"),
        pytest.param(Fault(KILL, 30, inf, ANNE), id="after both"),
        pytest.param(Fault(PAUSE, 1, 5, ANNE), id="a pause before both"),
        pytest.param(Fault(STORE_OUTAGE, 1, 5), id="a loss before both"),
    ],
)
def test_other_faults_explain_nothing(fault: Fault) -> None:
    findings = judged(ran(ANNE, 10), ran(BERT, 20), faults=[fault])

    assert findings.wrong() == {"unexplained_duplicates": 1}


def test_a_store_that_forgets_in_between_explains_a_second_effect() -> None:
    findings = judged(ran(ANNE, 10), ran(BERT, 20), faults=[Fault(STORE_OUTAGE, 15, 16)])

    assert not findings.wrong()


def test_a_pause_in_the_middle_of_the_work_explains_a_second_effect() -> None:
    findings = judged(
        ran(ANNE, 10, seconds=20, is_marked=False), ran(BERT, 15), faults=[Fault(PAUSE, 11, 29, ANNE)]
    )

    assert not findings.wrong()


def test_a_pause_between_claim_and_beginning_explains_a_second_effect() -> None:
    claimed, *rest = ran(ANNE, 30, is_marked=False)
    overslept = [claimed._replace(at=10.0, asked_at=9.9), *rest]

    findings = judged(overslept, ran(BERT, 15), faults=[Fault(PAUSE, 11, 29, ANNE)])

    assert not findings.wrong()


# --- dead letters -----------------------------------------------------------------------------------


def test_a_dead_letter_that_nobody_asked_for_is_wrong_and_no_loss() -> None:
    assert judged(dead_letters={"m"}).wrong() == {"wrongly_dead_lettered": 1}


def test_a_message_that_should_be_rejected_and_is_nowhere_is_lost() -> None:
    assert judged(expected=(Expected("m", ("job",), rejected=True),)).wrong() == {"lost": 1}


# --- groups -----------------------------------------------------------------------------------------

FIRST, SECOND = (Expected(name, ("job",), "group", number) for number, name in enumerate(("m0", "m1")))


def test_a_group_in_order_one_at_a_time_is_right_even_if_each_message_takes_several_runs() -> None:
    findings = judged(
        ran(ANNE, 10, "m0", end=FAILED),
        ran(ANNE, 12, "m0"),
        ran(BERT, 20, "m1"),
        expected=(FIRST, SECOND),
    )

    assert not findings.wrong()


def test_a_message_that_overtakes_is_out_of_order() -> None:
    findings = judged(
        ran(ANNE, 10, "m0", end=FAILED), ran(ANNE, 12, "m1"), ran(ANNE, 14, "m0"), expected=(FIRST, SECOND)
    )

    assert findings.wrong() == {"out_of_order": 1}


def test_runs_of_a_group_that_overlap_are_two_at_once() -> None:
    findings = judged(ran(ANNE, 10, "m0", seconds=5), ran(BERT, 12, "m1"), expected=(FIRST, SECOND))

    assert findings.wrong() == {"two_at_once": 1}


def test_a_run_ends_with_the_death_of_its_worker() -> None:
    findings = judged(
        ran(ANNE, 10, "m0", end=None),
        ran(BERT, 12, "m0"),
        ran(BERT, 20, "m1"),
        expected=(FIRST, SECOND),
        faults=[Fault(KILL, 11, inf, ANNE)],
    )

    assert not findings.wrong()


# --- stale speakers ---------------------------------------------------------------------------------


def test_a_mark_for_a_claim_that_another_has_taken_over_is_stale() -> None:
    findings = judged(
        ran(ANNE, 10, seconds=20), ran(BERT, 15, seconds=30), faults=[Fault(PAUSE, 11, 29, ANNE)]
    )

    assert findings.wrong() == {"stale_completes": 1}


def test_an_acknowledge_after_somebody_elses_receipt_is_stale() -> None:
    receipts = [
        Record(1, ANNE, RECEIVED, "m", token="1"),
        Record(5, BERT, RECEIVED, "m", token="2"),
        Record(7, ANNE, ACKNOWLEDGED, "m", token="1", asked_at=6),
    ]

    findings = judged(ran(ANNE, 2), receipts)

    assert findings.wrong() == {"stale_acknowledges": 1}


def test_an_acknowledge_that_was_under_way_already_is_not_stale() -> None:
    receipts = [
        Record(1, ANNE, RECEIVED, "m", token="1"),
        Record(5, BERT, RECEIVED, "m", token="2"),
        Record(7, ANNE, ACKNOWLEDGED, "m", token="1", asked_at=4),
    ]

    findings = judged(ran(ANNE, 2), receipts)

    assert not findings.wrong()


def test_a_receipt_that_was_written_down_late_makes_the_later_one_not_stale() -> None:
    receipts = [
        Record(5, BERT, RECEIVED, "m", token="2"),
        Record(6, ANNE, RECEIVED, "m", token="1"),
        Record(8, BERT, ACKNOWLEDGED, "m", token="2", asked_at=7),
    ]

    findings = judged(ran(ANNE, 2), receipts)

    assert not findings.wrong()


def test_a_claim_that_was_written_down_late_makes_the_later_one_not_stale() -> None:
    claimed, *_ = ran(ANNE, 10)
    written_late = [claimed._replace(at=18.0)]

    findings = judged(written_late, ran(BERT, 15, seconds=5))

    assert not findings.wrong()
