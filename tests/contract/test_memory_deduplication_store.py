"""The in-memory deduplication store keeps the contract of deduplication stores."""

import pytest

from melange.deduplication import (
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    MemoryDeduplicationStore,
    memory,
)
from melange.deduplication.memory import identity_of
from melange.testing.clock import ManualClock
from melange.testing.deduplication_contract import DeduplicationStoreContract


class TestMemoryDeduplicationStore(DeduplicationStoreContract):
    @pytest.fixture(autouse=True)
    def _clock(self) -> None:
        self.clock = ManualClock()

    def make_store(self) -> DeduplicationStore:
        return MemoryDeduplicationStore(clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestWhereHashesMayBeKnown(TestMemoryDeduplicationStore):
    @pytest.fixture(autouse=True)
    def _known_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "identity_of", DeduplicationKey.digest)


class TestWhereHashesAreSecret(TestMemoryDeduplicationStore):
    @pytest.fixture(autouse=True)
    def _secret_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "identity_of", hash)


class _MarksBeforeRunning(MemoryDeduplicationStore):
    """Negative control: the mark is set with the claim, so a crash loses the message."""

    def claim(self, key, token, lease_seconds):
        claimed = super().claim(key, token, lease_seconds)
        if isinstance(claimed, tuple):
            super().complete(claimed)
        return claimed


class _Unfenced(MemoryDeduplicationStore):
    """Negative control: whoever completes is believed, whether the claim is still its own or not."""

    def complete(self, claimed):
        super().complete(claimed)
        holder = self._claims.get(identity_of(claimed.key))
        return holder is None or super().complete(claimed._replace(token=holder[0]))


class _ForgetsWhatRanOut(MemoryDeduplicationStore):
    """Negative control: work that was finished late, with nobody else at it, is done again."""

    def complete(self, claimed):
        held = self._claims.get(identity_of(claimed.key))
        return held is not None and held[2] > self._clock.monotonic() and super().complete(claimed)


class _BelievesWhatWasGivenBack(MemoryDeduplicationStore):
    """Negative control: a free key is completed by whoever says so, also after a successor gave it back."""

    def complete(self, claimed):
        identity = identity_of(claimed.key)
        if identity not in self._claims and identity not in self._marks:
            self.claim(claimed.key, claimed.token, 30)
        return super().complete(claimed)


class _CountsRefusals(MemoryDeduplicationStore):
    """Negative control: waiting for another claim uses up attempts."""

    def claim(self, key, token, lease_seconds):
        answer = super().claim(key, token, lease_seconds)
        if answer is ClaimRefusal.BUSY:
            holder, attempt, leased_until = self._claims[identity_of(key)]
            self._claims[identity_of(key)] = holder, attempt + 1, leased_until
        return answer


class _CountsWhatNeverBegan(MemoryDeduplicationStore):
    """Negative control: what was given back before the listener ran is counted as an attempt."""

    def abandon(self, claimed, *, began=True):
        return super().abandon(claimed)


class _CountsFailuresOnly(MemoryDeduplicationStore):
    """Negative control: an attempt is counted when it has failed, and never if its process died."""

    def claim(self, key, token, lease_seconds):
        held = self._claims.get(identity_of(key))
        if held is not None and held[2] <= self._clock.monotonic():
            del self._claims[identity_of(key)]
        return super().claim(key, token, lease_seconds)


class _ForgetsClaimsWithAttempts(MemoryDeduplicationStore):
    """Negative control: forgetting attempts lets another claim in."""

    def forget_attempts(self, key):
        super().forget_attempts(key)
        self._claims.pop(identity_of(key), None)


@pytest.mark.parametrize(
    ("broken_store", "test_name"),
    [
        (_MarksBeforeRunning, "test_a_claim_ends_with_its_lease"),
        (_MarksBeforeRunning, "test_an_abandoned_key_can_be_claimed_at_once"),
        (_Unfenced, "test_a_lost_claim_cannot_complete_for_the_successor"),
        (_ForgetsWhatRanOut, "test_a_lease_that_ran_out_counts_until_another_takes_over"),
        (_ForgetsWhatRanOut, "test_a_completion_that_is_sent_twice_recognises_itself"),
        (_BelievesWhatWasGivenBack, "test_a_lost_claim_cannot_complete_what_the_successor_gave_back"),
        (_CountsRefusals, "test_refused_claims_count_no_attempt"),
        (_CountsWhatNeverBegan, "test_a_run_that_never_began_counts_no_attempt"),
        (_CountsFailuresOnly, "test_a_claim_whose_lease_expired_was_an_attempt"),
        (_ForgetsClaimsWithAttempts, "test_forgetting_attempts_leaves_a_live_claim"),
    ],
)
def test_the_contract_catches_a_broken_store(broken_store, test_name):
    suite = TestMemoryDeduplicationStore()
    suite.clock = ManualClock()
    store = broken_store(clock=suite.clock)

    with pytest.raises(AssertionError):
        getattr(suite, test_name)(store, DeduplicationKey("queue", "listener", "message", ("content",)))
