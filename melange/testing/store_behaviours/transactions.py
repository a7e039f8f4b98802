"""Claims that last as long as the transaction in which their listener works."""

from __future__ import annotations

from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.testing.store_behaviours.case import StoreCase, claim_of


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
