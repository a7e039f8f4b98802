"""How the queues of a worker share what it may have in hand."""

import threading

from melange.consuming.slots import Slots
from waiting import eventually

DEADLINE_SECONDS = 30


class Taker:
    """Takes slots on a thread of its own, because that may block."""

    def __init__(self, slots, queue, most=10):
        self.taken = None
        self._slots, self._queue, self._most = slots, queue, most
        self._done = threading.Event()
        threading.Thread(target=self._take, daemon=True).start()
        eventually(lambda: self._done.is_set() or slots._waiting[queue])

    def _take(self):
        self.taken = self._slots.take(self._queue, self._most)
        self._done.set()

    def is_waiting(self):
        return not self._done.is_set()

    def wait(self):
        assert self._done.wait(DEADLINE_SECONDS), "it was given no slot"
        return self.taken


def test_queues_that_have_their_share_do_not_give_way_to_each_other():
    slots = Slots(5, 2)
    for queue in (0, 1):
        slots.take(queue, 2)
    slots.take(0, 1)
    first, second = Taker(slots, 0), Taker(slots, 1)
    assert first.is_waiting()
    assert second.is_waiting()

    slots.give_back(0)

    eventually(lambda: not (first.is_waiting() and second.is_waiting()))


def test_a_queue_below_its_share_goes_before_one_above():
    slots = Slots(4, 2)
    slots.take(1, 1)
    slots.take(0, 3)
    above = Taker(slots, 0)
    assert above.is_waiting()
    below = Taker(slots, 1)
    assert below.is_waiting()

    slots.give_back(0)

    assert below.wait() == 1
    assert above.is_waiting()


def test_who_gave_way_goes_on_once_the_other_has_its_slot():
    slots = Slots(6, 2)
    slots.take(1, 1)
    slots.take(0, 5)
    above = Taker(slots, 0)
    assert above.is_waiting()
    below = Taker(slots, 1, most=1)
    assert below.is_waiting()

    slots.give_back(0, 2)

    assert below.wait() == 1
    assert above.wait() == 1


def test_every_queue_can_have_one_whatever_the_others_hold():
    slots = Slots(3, 3)

    assert slots.take(0, 10) == 1
    assert slots.take(1, 10) == 1
    assert slots.take(2, 10) == 1


def test_closing_ends_the_waiting_with_nothing():
    slots = Slots(1, 1)
    slots.take(0, 1)
    taker = Taker(slots, 0)
    assert taker.is_waiting()

    slots.close()

    assert taker.wait() == 0
