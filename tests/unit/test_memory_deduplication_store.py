"""What only the in-memory store has: its bounds, and being shared by a process's consumers."""

from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, MemoryDeduplicationStore
from melange.testing.clock import ManualClock


def key(number: int) -> DeduplicationKey:
    return DeduplicationKey("queue", "listener", f"message-{number}", "content")


def complete(store: MemoryDeduplicationStore, number: int) -> None:
    claimed = store.claim(key(number), "token", 30)
    assert isinstance(claimed, Claimed)
    store.complete(claimed)


def test_beyond_its_size_the_oldest_marks_are_forgotten():
    store = MemoryDeduplicationStore(max_marks=3)

    for number in range(5):
        complete(store, number)

    assert len(store) == 3
    assert isinstance(store.claim(key(0), "token", 30), Claimed)
    assert store.claim(key(4), "token", 30) is ClaimRefusal.DONE


def test_marks_are_forgotten_after_the_retention():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=60, clock=clock)
    complete(store, 1)

    clock.advance(61)

    assert isinstance(store.claim(key(1), "token", 30), Claimed)
    complete(store, 2)
    assert len(store) == 1


def test_a_message_that_comes_again_after_the_retention_is_remembered_anew():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=60, clock=clock)
    complete(store, 1)
    clock.advance(61)

    complete(store, 1)
    complete(store, 2)

    assert store.claim(key(1), "token", 30) is ClaimRefusal.DONE


def test_claims_of_crashed_listeners_do_not_pile_up():
    clock = ManualClock()
    store = MemoryDeduplicationStore(clock=clock)

    for number in range(5_000):
        store.claim(key(number), "token", 1)
        clock.advance(2)

    assert len(store._claims) <= 1_001


def test_a_lease_of_no_length_does_not_break_the_store():
    store = MemoryDeduplicationStore()

    store.claim(key(1), "token", 0)

    assert isinstance(store.claim(key(1), "another", 30), Claimed)
