"""Claims that end with their leases, or with the transaction in which their listener works."""

from __future__ import annotations

from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.testing.store_behaviours.claiming import StoreCase, claim_of


class Transactions(StoreCase):
    """No claim takes over while the first may still commit, and a rollback leaves no mark."""

    def test_a_claim_outlasts_its_lease(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        late = claim_of(store, key, "late", lease_seconds=self.short_lease_seconds)

        self.pass_short_lease()

        assert store.claim(key, "other", 30) is ClaimRefusal.BUSY
        assert store.renew(late, 30)
        assert store.complete(late)
        assert store.claim(key, "other", 30) is ClaimRefusal.DONE

    def test_who_gave_back_cannot_complete(self, store: DeduplicationStore, key: DeduplicationKey) -> None:
        claimed = claim_of(store, key, "token")
        store.abandon(claimed)

        assert not store.complete(claimed)
        assert not store.renew(claimed, 30)

        assert isinstance(store.claim(key, "next", 30), Claimed)

    def test_who_gave_back_cannot_complete_for_the_next(
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
