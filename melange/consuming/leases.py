"""Leases: the right to work on a delivery, kept alive while it is in hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence

from melange.clock import Clock
from melange.deduplication.base import Claimed, DeduplicationStore
from melange.drivers.base import MessagingDriver
from melange.errors import DeduplicationError, LeaseLostError, MelangeError
from melange.messages import Delivery

logger = logging.getLogger(__name__)


class Lease:
    """The right to work on one delivery, until its deadline.

    ``delivery`` carries the deadline of the last renewal. ``attempt`` is the number of the attempt at hand:
    receives by the broker plus the retries in hand. ``claim`` is that of the listener at work.
    ``holds_slot`` says whether a worker counts it among what it may have in hand.
    """

    __slots__ = ("_clock", "_lost", "attempt", "claim", "delivery", "holds_slot")

    def __init__(self, delivery: Delivery, clock: Clock) -> None:
        self.delivery = delivery
        self.attempt = delivery.receive_count
        self.claim: Claimed | None = None
        self.holds_slot = True
        self._clock = clock
        self._lost = False

    @property
    def remaining_seconds(self) -> float:
        """How long the lease still holds; 0 or less when it is lost."""
        return 0.0 if self._lost else self.delivery.deadline - self._clock.monotonic()

    def is_lost(self) -> bool:
        """Return whether somebody else may have the message by now."""
        return self.remaining_seconds <= 0

    def renewed(self, deadline: float) -> None:
        """Note that the broker keeps the delivery invisible until ``deadline``."""
        self.delivery = self.delivery._replace(deadline=deadline)

    def lose(self) -> None:
        """Note that the lease is lost, whatever its deadline says."""
        self._lost = True


class LeaseKeeper:
    """Renews leases in batches on a thread of its own, from their receipt to their settlement.

    A lease is renewed when less than half of the visibility timeout is left, and the claims of its listeners
    with it. What cannot be renewed is tried again until its deadline, and then lost. Thread-safe.
    """

    def __init__(
        self, driver: MessagingDriver, visibility_timeout_seconds: int, store: DeduplicationStore | None
    ) -> None:
        self._driver = driver
        self._visibility_timeout_seconds = visibility_timeout_seconds
        self._store = store
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="melange-leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew nothing any more; blocks until a renewal under way has ended, for some seconds at most."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def hold(self, deliveries: Sequence[Delivery]) -> list[Lease]:
        """Return a lease for each delivery, renewed until ``release``."""
        leases = [Lease(delivery, self._driver.clock) for delivery in deliveries]
        with self._lock:
            self._held.update(leases)
        return leases

    def release(self, leases: Iterable[Lease]) -> None:
        """Renew these no longer, from now on: to be called before they are settled or left to others."""
        with self._lock:
            self._held.difference_update(leases)

    def __len__(self) -> int:
        """Return how many deliveries are in hand."""
        return len(self._held)

    def renew_due(self) -> None:
        """Renew what is due now."""
        # Under the lock, network call included: a renewal that arrived after its delivery was given back
        # would hide it again.
        with self._lock:
            half = self._visibility_timeout_seconds / 2
            due = [lease for lease in self._held if 0 < lease.remaining_seconds <= half]
            if due:
                self._renew(due)
                self._renew_claims(due)

    def _run(self) -> None:
        # Four looks a timeout: one that comes late, or fails, is not yet too late.
        while not self._stopping.wait(self._visibility_timeout_seconds / 8):
            try:
                self.renew_due()
            except Exception:
                logger.exception("renewing leases failed; trying again")

    def _renew(self, leases: Sequence[Lease]) -> None:
        by_delivery = {id(lease.delivery): lease for lease in leases}
        deliveries = [lease.delivery for lease in leases]
        deadline = self._driver.clock.monotonic() + self._visibility_timeout_seconds
        failures = {
            id(failure.item): failure.error
            for failure in self._driver.defer(deliveries, self._visibility_timeout_seconds)
        }
        for key, lease in by_delivery.items():
            error = failures.get(key)
            if error is None:
                lease.renewed(deadline)
            else:
                _note_failure(lease, error)

    def _renew_claims(self, leases: Sequence[Lease]) -> None:
        if self._store is None:
            return
        for lease in leases:
            claimed = lease.claim
            if claimed is None:
                continue
            try:
                held = self._store.renew(claimed, self._visibility_timeout_seconds)
            except DeduplicationError as error:
                # Whoever settles waits for the lock: a store that does not answer is asked once, not per claim.
                logger.warning("claims could not be renewed: %s", error)
                return
            if not held and lease.claim is claimed:  # otherwise it was completed meanwhile
                lease.lose()


def _note_failure(lease: Lease, error: MelangeError) -> None:
    if isinstance(error, LeaseLostError):
        lease.lose()
    logger.warning(
        "the lease of message %s could not be renewed: %s",
        lease.delivery.message.message_id,
        error,
        extra={"message_id": lease.delivery.message.message_id, "queue_name": lease.delivery.queue.name},
    )
