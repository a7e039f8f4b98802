"""Deadlines of invisible copies: due in order, and outdated ones do not pile up."""

from melange.drivers.memory.queue import Copy, Deadlines
from melange.messages import Message


def _copy(number, visible_at):
    copy = Copy(Message("id", "body"), number, sent_at=0)
    copy.visible_at = visible_at
    return copy


def test_copies_are_due_in_the_order_of_their_deadlines():
    copies = {number: _copy(number, visible_at=10 - number) for number in range(3)}
    deadlines = Deadlines(copies)
    for copy in copies.values():
        deadlines.add(copy.visible_at, [copy], invisible=3)

    assert deadlines.earliest == 8
    assert [copy.number for copy in deadlines.pop_due(9)] == [2, 1]
    assert [copy.number for copy in deadlines.pop_due(10)] == [0]


def test_removed_and_rescheduled_copies_are_passed_over():
    copies = {number: _copy(number, visible_at=5) for number in range(3)}
    deadlines = Deadlines(copies)
    deadlines.add(5, list(copies.values()), invisible=3)
    del copies[0]
    copies[1].visible_at = 7

    assert [copy.number for copy in deadlines.pop_due(5)] == [2]


def test_outdated_deadlines_are_cleared_out_and_the_others_are_kept():
    copies = {-number: _copy(-number, visible_at=100_000 + number * 37 % 20) for number in range(1, 21)}
    deadlines = Deadlines(copies)
    for kept in copies.values():
        deadlines.add(kept.visible_at, [kept], invisible=20)

    for number in range(5_000):
        copies[number] = _copy(number, visible_at=number)
        deadlines.add(number, [copies[number]], invisible=21)
        del copies[number]

    assert len(deadlines) < 1_100
    due = [kept.visible_at for kept in deadlines.pop_due(100_020)]
    assert due == list(range(100_000, 100_020))
