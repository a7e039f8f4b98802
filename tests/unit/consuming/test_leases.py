"""The keeper of leases, asked to renew by hand."""

from __future__ import annotations

import pytest

from melange import DeduplicationError, MemoryDeduplicationStore
from melange.consuming.leases import LeaseKeeper
from melange.deduplication.base import Claimed, DeduplicationKey
from waiting import eventually

TIMEOUT_SECONDS = 30


class UnreachableStore(MemoryDeduplicationStore):
    """Grants claims, and then is gone."""

    def __init__(self, clock) -> None:
        super().__init__(clock=clock)
        self.renewals = 0

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        self.renewals += 1
        raise DeduplicationError("no answer")


@pytest.fixture
def hold(driver, publisher, make_consumer):
    """Hold three deliveries, each with a claim of its listener."""

    def hold_three(keeper, store):
        queue = make_consumer().queue
        publisher.publish_batch([{"event_type_name": "Held"}] * 3)
        leases = keeper.hold(driver.receive(queue, 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))
        for lease in leases:
            key = DeduplicationKey(queue.address, "job", lease.delivery.message.message_id, "")
            lease.claimed = store.claim(key, "token", TIMEOUT_SECONDS)
        return leases

    return hold_three


def test_leases_and_claims_are_renewed_once_half_of_the_time_is_over(driver, clock, store, hold) -> None:
    keeper = LeaseKeeper(driver, TIMEOUT_SECONDS, store)
    leases = hold(keeper, store)

    for _ in range(4):
        clock.advance(TIMEOUT_SECONDS / 2)
        keeper.renew_due()
        eventually(lambda: not any(lease.is_renewing for lease in leases))

    assert [lease.remaining_seconds for lease in leases] == [TIMEOUT_SECONDS] * 3
    key = leases[0].claimed.key
    assert store.claim(key, "another", TIMEOUT_SECONDS).name == "BUSY"


def test_a_store_that_does_not_answer_is_asked_once_a_round_and_costs_no_lease(driver, clock, hold) -> None:
    store = UnreachableStore(clock)
    keeper = LeaseKeeper(driver, TIMEOUT_SECONDS, store)
    leases = hold(keeper, store)

    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    eventually(lambda: not any(lease.is_renewing for lease in leases))

    assert store.renewals == 1
    assert [lease.remaining_seconds for lease in leases] == [TIMEOUT_SECONDS] * 3
