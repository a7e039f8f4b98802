"""Attempts: each run of the listener has a number, which the claim counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.testing.deduplication_contract.claims import StoreCase, claim_of, differing_in


class Attempts(StoreCase):
    """Only runs are counted."""

    def test_the_first_claim_is_attempt_1(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        assert claim_of(store, key, "token").attempt == 1

    def test_each_claim_after_an_abandoned_one_is_the_next_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        attempts = []

        for number in range(4):
            claimed = claim_of(store, key, f"token-{number}")
            attempts.append(claimed.attempt)
            store.abandon(claimed)

        assert attempts == [1, 2, 3, 4]

    def test_a_claim_that_is_sent_twice_is_one_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.abandon(claim_of(store, key, "first"))

        assert claim_of(store, key, "second").attempt == 2
        assert claim_of(store, key, "second").attempt == 2

    def test_a_token_that_was_given_back_makes_a_new_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.abandon(claim_of(store, key, "token"))

        assert claim_of(store, key, "token").attempt == 2

    def test_refused_claims_count_no_attempt(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        claimed = claim_of(store, key, "token")

        for number in range(3):
            assert store.claim(key, f"refused-{number}", 30) is ClaimRefusal.BUSY
        store.abandon(claimed)

        assert claim_of(store, key, "next").attempt == 2

    def test_renewing_counts_no_attempt(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        claimed = claim_of(store, key, "token")

        store.renew(claimed, 30)
        store.abandon(claimed)

        assert claim_of(store, key, "next").attempt == 2

    def test_a_run_that_never_began_counts_no_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.abandon(claim_of(store, key, "failed"))
        never_began = claim_of(store, key, "never began")

        assert store.abandon(never_began, began=False)

        assert claim_of(store, key, "next").attempt == never_began.attempt == 2

    def test_a_first_run_that_never_began_counts_no_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        assert store.abandon(claim_of(store, key, "never began"), began=False)

        assert claim_of(store, key, "next").attempt == 1

    def test_an_abandon_that_is_sent_twice_takes_one_attempt_back(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.abandon(claim_of(store, key, "failed"))
        never_began = claim_of(store, key, "never began")
        store.abandon(never_began, began=False)

        store.abandon(never_began, began=False)

        assert claim_of(store, key, "next").attempt == 2

    def test_forgotten_attempts_begin_anew(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        for number in range(3):
            store.abandon(claim_of(store, key, f"token-{number}"))

        store.forget_attempts(key)

        assert claim_of(store, key, "next").attempt == 1

    def test_forgetting_attempts_that_are_not_there_does_nothing(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.forget_attempts(key)
        store.forget_attempts(key)

        assert claim_of(store, key, "token").attempt == 1

    def test_forgetting_attempts_leaves_a_live_claim(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")

        store.forget_attempts(key)

        assert store.claim(key, "other", 30) is ClaimRefusal.BUSY
        assert store.renew(claimed, 30)
        assert store.complete(claimed)
        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_a_claim_whose_attempts_were_forgotten_can_be_given_back(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.forget_attempts(key)

        assert store.abandon(claimed, began=False)

        assert claim_of(store, key, "next").attempt == 1

    def test_forgetting_attempts_leaves_a_mark(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claimed = claim_of(store, key, "token")
        store.complete(claimed)

        store.forget_attempts(key)

        assert store.complete(claimed)
        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_attempts_of_different_keys_are_counted_apart(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        store.abandon(claim_of(store, key, "token"))

        for part in DeduplicationKey._fields:
            assert claim_of(store, differing_in(part, key), "token").attempt == 1

    def test_claims_by_many_at_once_have_different_numbers(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        start = threading.Barrier(8)

        def claim_and_fail(number: int) -> list[int]:
            attempts = []
            start.wait(timeout=30)
            for run in range(5):
                claimed = store.claim(key, f"token-{number}-{run}", 30)
                if isinstance(claimed, Claimed):
                    attempts.append(claimed.attempt)
                    store.abandon(claimed)
            return attempts

        with ThreadPoolExecutor(8) as pool:
            attempts = sorted(attempt for runs in pool.map(claim_and_fail, range(8)) for attempt in runs)

        assert attempts == list(range(1, len(attempts) + 1))
        assert attempts


class AttemptsOfLeases(StoreCase):
    """A run that ends with its lease was an attempt."""

    def test_a_claim_whose_lease_expired_was_an_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claim_of(store, key, "crashed", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert claim_of(store, key, "successor").attempt == 2

    def test_the_same_token_after_its_lease_expired_is_the_same_attempt(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        claim_of(store, key, "late", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert claim_of(store, key, "late").attempt == 1

    def test_a_lost_claim_takes_no_attempt_of_its_successor_back(
        self, store: DeduplicationStore, key: DeduplicationKey
    ) -> None:
        lost = claim_of(store, key, "lost", lease_seconds=self.short_lease_seconds)
        self.pass_short_lease()
        successor = claim_of(store, key, "successor")

        assert not store.abandon(lost, began=False)
        store.abandon(successor)

        assert claim_of(store, key, "third").attempt == 3
