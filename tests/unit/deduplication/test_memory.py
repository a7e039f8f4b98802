"""What only the in-memory store has: its bounds, and being shared by a process's consumers."""

import os
import subprocess
import sys
import tracemalloc

import pytest

from melange.deduplication import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    MemoryDeduplicationStore,
    memory,
)
from melange.testing.clock import ManualClock


def key(number: int) -> DeduplicationKey:
    return DeduplicationKey("queue", "listener", f"message-{number}", (f"content of {number}",))


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


def test_marks_are_forgotten_one_after_the_other():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=100, clock=clock)
    for number in range(100):
        complete(store, number)
        clock.advance(1)

    clock.advance(50)
    complete(store, 100)

    assert store.claim(key(52), "token", 30) is ClaimRefusal.DONE
    assert isinstance(store.claim(key(48), "token", 30), Claimed)
    assert 48 <= len(store) <= 52


def test_expired_marks_are_removed_as_fast_as_new_ones_come():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=100, clock=clock)
    for number in range(1_000):
        complete(store, number)
    clock.advance(102)

    for number in range(1_000, 2_500):
        complete(store, number)

    assert len(store) == 1_500


def test_claims_of_crashed_listeners_do_not_pile_up():
    clock = ManualClock()
    store = MemoryDeduplicationStore(clock=clock)

    for number in range(5_000):
        store.claim(key(number), "token", 1)
        clock.advance(2)

    assert len(store._claims) <= 1_001


def fail(store: MemoryDeduplicationStore, number: int) -> int:
    claimed = store.claim(key(number), f"token-{number}", 30)
    assert isinstance(claimed, Claimed)
    store.abandon(claimed)
    return claimed.attempt


def test_attempts_are_forgotten_after_the_retention():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=60, clock=clock)
    assert [fail(store, 1), fail(store, 1)] == [1, 2]

    clock.advance(61)

    assert fail(store, 1) == 1


def test_each_attempt_keeps_the_number_for_another_retention():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=60, clock=clock)

    attempts = []
    for _ in range(3):
        attempts.append(fail(store, 1))
        clock.advance(59)

    assert attempts == [1, 2, 3]


def test_attempts_of_messages_that_never_come_back_are_bounded_by_time():
    clock = ManualClock()
    store = MemoryDeduplicationStore(retention_seconds=60, clock=clock)

    for number in range(5_000):
        fail(store, number)
        clock.advance(1)

    assert len(store._attempts) <= 1_001


def test_attempts_of_messages_that_never_come_back_are_bounded_by_number_and_the_newest_stay():
    store = MemoryDeduplicationStore(max_marks=2_000)

    for number in range(10_000):
        fail(store, number)

    assert len(store._attempts) <= 2_000
    assert fail(store, 9_000) == 2
    assert fail(store, 0) == 1


def test_attempts_of_claims_that_never_ended_stay_counted():
    clock = ManualClock()
    store = MemoryDeduplicationStore(clock=clock)
    for number in range(3_000):
        store.claim(key(number), "token", 1)
        clock.advance(2)
    assert len(store._claims) <= 1_001

    assert fail(store, 0) == 2


def test_a_completed_message_leaves_no_attempts():
    store = MemoryDeduplicationStore()
    fail(store, 1)

    complete(store, 1)

    assert not store._attempts
    assert not store._claims


@pytest.mark.parametrize("identity_of", [hash, DeduplicationKey.digest], ids=["hash", "digest"])
def test_a_mark_takes_at_most_200_bytes_whatever_the_size_of_its_message(monkeypatch, identity_of):
    monkeypatch.setattr(memory, "identity_of", identity_of)
    store = MemoryDeduplicationStore()
    tracemalloc.start()
    try:
        for number in range(20_000):
            large = key(number)._replace(content=(f"{number} " * 500,))
            claimed = store.claim(large, f"token-{number}", 30)
            assert isinstance(claimed, Claimed)
            store.complete(claimed)
            del large, claimed
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    print(f"{used_bytes / len(store):.0f} bytes for each mark")  # noqa: T201
    assert used_bytes / len(store) < 200


def test_a_lease_of_no_length_does_not_break_the_store():
    store = MemoryDeduplicationStore()

    store.claim(key(1), "token", 0)

    assert isinstance(store.claim(key(1), "another", 30), Claimed)


@pytest.mark.parametrize(
    ("seed", "expected"), [(None, "True"), ("random", "True"), ("0", "False"), ("42", "False")]
)
def test_hashes_stand_for_keys_only_if_nobody_can_know_them(seed, expected):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    if seed is not None:
        environment["PYTHONHASHSEED"] = seed
    program = "from melange.deduplication import memory; print(memory.identity_of is hash)"

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.strip() == expected
