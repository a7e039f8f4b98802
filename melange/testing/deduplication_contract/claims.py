"""Claims: taken, renewed, completed, abandoned, and what ends them. Also what all parts of the suite share."""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore


class StoreCase(ABC):
    """A store under test, and an unused key."""

    short_lease_seconds: ClassVar[float] = 1.0

    @abstractmethod
    def make_store(self) -> DeduplicationStore:
        """Return a store; called once per test."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass; a store with a clock of its own advances that instead."""
        threading.Event().wait(seconds)

    def pass_short_lease(self) -> None:
        """Let a short lease run out."""
        self.pass_time(1.1 * self.short_lease_seconds)

    @pytest.fixture
    def store(self) -> DeduplicationStore:
        return self.make_store()

    @pytest.fixture
    def key(self) -> DeduplicationKey:
        return DeduplicationKey("orders", "StockListener", str(uuid.uuid4()), ("content",))


def differing_in(part: str, key: DeduplicationKey) -> DeduplicationKey:
    """Return the key with another value for one of its fields."""
    another: Any = ("another",) if part == "content" else "another"
    return key._replace(**{part: another})


def claim_of(
    store: DeduplicationStore, key: DeduplicationKey, token: str, lease_seconds: float = 30
) -> Claimed:
    """Claim a key that is free."""
    claimed = store.claim(key, token, lease_seconds)
    assert isinstance(claimed, Claimed)
    return claimed


class Claiming(StoreCase):
    """One claim at a time, one completion, and repeated calls are recognised."""

    def test_a_new_key_can_be_claimed(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        claimed = store.claim(key, "token", 30)

        assert isinstance(claimed, Claimed)
        assert claimed.key == key

    def test_a_claimed_key_is_busy_for_others(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        store.claim(key, "first", 30)

        assert store.claim(key, "second", 30) is ClaimRefusal.BUSY

    def test_a_claim_that_is_sent_twice_recognises_itself(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.claim(key, "token", 30)

        assert isinstance(store.claim(key, "token", 30), Claimed)

    def test_a_completed_key_is_done_for_everyone(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")

        assert store.complete(claimed)

        assert store.claim(key, "other", 30) is ClaimRefusal.DONE
        assert store.claim(key, "token", 30) is ClaimRefusal.DONE

    def test_a_store_in_reach_says_so(self, store: DeduplicationStore) -> None:
        assert store.check() is None

    def test_an_abandoned_key_can_be_claimed_at_once(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "first")

        assert store.abandon(claimed)

        assert isinstance(store.claim(key, "second", 30), Claimed)

    def test_a_renewed_claim_outlives_its_first_lease(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token", lease_seconds=self.short_lease_seconds)

        assert store.renew(claimed, 30)
        self.pass_short_lease()

        assert store.claim(key, "other", 30) is ClaimRefusal.BUSY

    def test_an_abandon_after_the_completion_takes_nothing_back(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.complete(claimed)

        store.abandon(claimed)

        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_a_lease_that_ran_out_counts_until_another_takes_over(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        late = claim_of(store, key, "late", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert store.complete(late)
        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_a_lease_that_ran_out_can_be_renewed_until_another_takes_over(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        late = claim_of(store, key, "late", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert store.renew(late, 30)
        assert store.claim(key, "other", 30) is ClaimRefusal.BUSY

    def test_a_completion_that_is_sent_twice_recognises_itself(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.complete(claimed)

        assert store.complete(claimed)

    def test_an_abandon_that_is_sent_twice_takes_nothing_from_the_next(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.abandon(claimed)
        claim_of(store, key, "next")

        store.abandon(claimed)

        assert store.claim(key, "third", 30) is ClaimRefusal.BUSY

    def test_a_completed_key_is_not_renewed(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        claimed = claim_of(store, key, "token")
        store.complete(claimed)

        assert not store.renew(claimed, self.short_lease_seconds)
        self.pass_short_lease()

        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    @pytest.mark.parametrize("text", ["", "naïve ☃ 🎉", "new\nline, tab\t, nul\0", "{a}:{b}", "x" * 100_000])
    def test_any_text_may_stand_in_keys_and_tokens(self, store: DeduplicationStore, text: str) -> None:
        key = DeduplicationKey(text, text, f"{uuid.uuid4()}{text}", (text,))
        claimed = store.claim(key, f"token{text}", 30)
        assert isinstance(claimed, Claimed)

        assert store.renew(claimed, 30)
        assert store.complete(claimed)

        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    @pytest.mark.parametrize("part", DeduplicationKey._fields)
    def test_keys_that_differ_in_one_part_are_independent(
        self, store: DeduplicationStore, key: DeduplicationKey, part: str
    ) -> None:
        store.complete(claim_of(store, key, "token"))

        other_key = differing_in(part, key)

        assert isinstance(store.claim(other_key, "token", 30), Claimed)

    def test_parts_of_keys_do_not_run_together(self, store: DeduplicationStore) -> None:
        unique = str(uuid.uuid4())
        store.complete(claim_of(store, DeduplicationKey("a", "b:c", unique, ("content",)), "token"))

        assert isinstance(
            store.claim(DeduplicationKey("a:b", "c", unique, ("content",)), "token", 30), Claimed
        )

    def test_of_many_claims_at_once_one_succeeds(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        start = threading.Barrier(8)

        def claim(number: int) -> Claimed | ClaimRefusal:
            start.wait(timeout=30)
            return store.claim(key, f"token-{number}", 30)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(claim, range(8)))

        assert sum(isinstance(result, Claimed) for result in results) == 1
        assert results.count(ClaimRefusal.BUSY) == 7


class Transactions(StoreCase):
    """No claim takes over while the first may still commit, and a rollback leaves no mark."""

    def test_a_claim_outlasts_its_lease(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        late = claim_of(store, key, "late", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert store.claim(key, "other", 30) is ClaimRefusal.BUSY
        assert store.renew(late, 30)
        assert store.complete(late)
        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_an_abandoned_claim_cannot_be_completed(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.abandon(claimed)

        assert not store.complete(claimed)
        assert not store.renew(claimed, 30)

        assert isinstance(store.claim(key, "next", 30), Claimed)

    def test_an_abandoned_claim_cannot_complete_the_next(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        gave_back = claim_of(store, key, "gave back")
        store.abandon(gave_back)
        following = claim_of(store, key, "next")

        assert not store.complete(gave_back)
        assert store.complete(following)

        assert not store.complete(gave_back)


class Leases(StoreCase):
    """A worker with an expired lease cannot act for its successor."""

    def test_a_claim_ends_with_its_lease(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        store.claim(key, "crashed", self.short_lease_seconds)

        self.pass_short_lease()

        assert isinstance(store.claim(key, "successor", 30), Claimed)

    def test_a_lost_claim_cannot_complete_for_the_successor(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        claim_of(store, key, "successor")

        assert not store.complete(lost)

        assert store.claim(key, "third", 30) is ClaimRefusal.BUSY

    def test_a_lost_claim_cannot_abandon_for_the_successor(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        claim_of(store, key, "successor")

        assert not store.abandon(lost)

        assert store.claim(key, "third", 30) is ClaimRefusal.BUSY

    def test_a_lost_claim_cannot_renew(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        successor = claim_of(store, key, "successor")

        assert not store.renew(lost, 30)

        assert store.complete(successor)

    def test_a_lost_claim_cannot_complete_what_the_successor_gave_back(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        store.abandon(claim_of(store, key, "successor"))

        assert not store.complete(lost)

        assert isinstance(store.claim(key, "third", 30), Claimed)

    def test_a_lost_claim_cannot_renew_what_the_successor_completed(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        store.complete(claim_of(store, key, "successor"))

        assert not store.renew(lost, 30)
        assert not store.abandon(lost)

        assert store.claim(key, "third", 30) is ClaimRefusal.DONE

    def test_a_lost_claim_does_not_take_the_successors_completion_for_its_own(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        store.complete(claim_of(store, key, "successor"))

        assert not store.complete(lost)
