"""Leases: the right to work on a delivery, renewed for as long as it is in flight."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable, Sequence

from melange.clock import Clock
from melange.deduplication.base import Claimed, DeduplicationStore
from melange.drivers.base import MessagingDriver
from melange.errors import DeduplicationError, DriverClosedError, LeaseLostError, MelangeError
from melange.messages import Delivery, delivery_log_fields

logger = logging.getLogger(__name__)

RENEWAL_BATCH = 10
"""The number of leases that one call renews: the limit of SQS."""

LONGEST_WAIT_FOR_RENEWAL_SECONDS = 10.0
IDLE_SECONDS = 2.0
"""The renewing thread ends after this time without deliveries in flight, and starts again when needed."""


class Lease:
    """The right to work on one delivery, until its deadline.

    ``delivery`` has the deadline of the last renewal; at ``latest_deadline`` the broker shows the message to others in any
    case. ``claimed`` is the claim of the running listener, None between listeners; ``has_begun`` is True if that listener
    was called, ``is_completing`` if it has returned. ``retries`` counts the runs that failed while the delivery was kept in
    flight. ``lane`` is the key of its order, None for no order. ``is_settling`` ends its renewal before ``release`` does. At
    ``cutoff`` running listeners are given up, because the process ends soon after. A run that this leaves less than
    ``fair_seconds`` is not an attempt. ``is_ending`` is True once listeners at work are cancelled: no other begins.
    """

    # Defaults of the class: one lease is made for each delivery, and most of these never change.
    cutoff = math.inf
    fair_seconds = 0.0
    claimed: Claimed | None = None
    has_begun = False
    is_completing = False
    retries = 0
    lane: Hashable | None = None
    is_renewing = False
    is_settling = False
    is_ending = False
    is_reported_lost = False
    _lost = False

    def __init__(
        self, delivery: Delivery, clock: Clock, latest_deadline: float = math.inf, cutoff: float = math.inf
    ) -> None:
        self.delivery = delivery
        self.latest_deadline = latest_deadline
        self._clock = clock
        if cutoff != math.inf:
            self.cutoff = cutoff

    @property
    def remaining_seconds(self) -> float:
        """The remaining time of the lease; 0 or less if it is lost."""
        return 0.0 if self._lost else self.delivery.deadline - self._clock.monotonic()

    @property
    def seconds_to_cutoff(self) -> float:
        """The time that a listener may run; infinite in a process that does not end by itself."""
        return self.cutoff if self.cutoff == math.inf else max(0.001, self.cutoff - self._clock.monotonic())

    @property
    def receives(self) -> int:
        """The number of receives and retries: the attempts, if nothing else counts them."""
        return self.delivery.receive_count + self.retries

    def is_lost(self) -> bool:
        """Return True if another receiver may have the message."""
        return self.remaining_seconds <= 0

    def renewed(self, deadline: float) -> None:
        """Note that the broker keeps the delivery invisible until ``deadline``, unless that comes too late."""
        if self.is_lost():
            self.lose()  # another receiver may have it by now
        else:
            self.delivery = self.delivery._replace(deadline=min(deadline, self.latest_deadline))

    def lose(self) -> None:
        """Note that the lease is lost, also before its deadline."""
        self._lost = True


class LeaseKeeper:
    """Renews the leases of one consumer, from their receipt to their settlement.

    A lease is renewed when less than half of the visibility timeout is left, and the claim of its listener with it.
    A failed renewal is retried until the deadline; then the lease is lost, and ``on_lost`` is called with it. Brokers
    limit how long a message can stay invisible from its receipt, and cut longer renewals without an error, so no lease
    lasts longer than that. Thread-safe. No lock is held during a call to broker or store, and each batch of ten has its
    own thread, so that a slow call does not delay others.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        visibility_timeout_seconds: int,
        store: DeduplicationStore | None,
        on_lost: Callable[[Lease], None] = lambda lease: None,
    ) -> None:
        self.lost_count = 0
        self._driver = driver
        self._visibility_timeout_seconds = visibility_timeout_seconds
        # Counted from the first deadline, which lies the visibility timeout and the wait of the poll after the receipt.
        capabilities = driver.capabilities
        self._longest_extension_seconds = max(
            0,
            capabilities.max_visibility_seconds - visibility_timeout_seconds - capabilities.max_wait_seconds,
        )
        self._store = store
        self._on_lost = on_lost
        self._held: set[Lease] = set()
        self._was_used = self._is_idle = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hold(self, deliveries: Sequence[Delivery]) -> list[Lease]:
        """Return a lease for each delivery, renewed until ``release``."""
        clock = self._driver.clock
        longest = self._longest_extension_seconds
        leases = []
        for delivery in deliveries:
            leases.append(Lease(delivery, clock, delivery.deadline + longest))  # noqa: PERF401 - one function less
        with self._changed:
            self._was_used = True
            if self._is_idle:
                self._changed.notify_all()
            self._held.update(leases)
            # A fork leaves the thread behind.
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="melange-leases", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    logger.warning("leases are not renewed for now: %s", error)
        return leases

    def release(self, leases: Sequence[Lease]) -> None:
        """Renew these no longer, they are in flight no more: to be called when they are settled or left to others."""
        with self._changed:
            self._held.difference_update(leases)

    def stop_renewing(self, leases: Sequence[Lease]) -> None:
        """Renew these no longer, and return when no renewal of theirs runs: it would hide them again later."""
        with self._changed:
            for lease in leases:
                lease.is_settling = True
            self._changed.wait_for(
                lambda: not any(lease.is_renewing for lease in leases), LONGEST_WAIT_FOR_RENEWAL_SECONDS
            )

    @property
    def is_settled(self) -> bool:
        """True if nothing in flight is being settled."""
        with self._changed:
            return not any(lease.is_settling for lease in self._held)

    def begin_no_listener(self) -> None:
        """Let no further listener begin for what is in flight: those at work are about to be cancelled."""
        with self._changed:
            for lease in self._held:
                lease.is_ending = True

    def release_all(self) -> None:
        """Stop all renewals: deliveries still in flight are redelivered later."""
        with self._changed:
            self._held.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        """Return the number of deliveries in flight."""
        return len(self._held)

    def renew_due(self) -> None:
        """Begin to renew what is due; returns at once where threads can be started."""
        half = self._visibility_timeout_seconds / 2
        with self._changed:
            due = [
                lease
                for lease in self._held
                if lease.remaining_seconds <= half
                and not (lease.is_renewing or lease.is_settling or lease.is_reported_lost)
            ]
            for lease in due:
                lease.is_renewing = True
        for start in range(0, len(due), RENEWAL_BATCH):
            batch = due[start : start + RENEWAL_BATCH]
            try:
                threading.Thread(
                    target=self._renew, args=(batch,), name="melange-renewal", daemon=True
                ).start()
            except RuntimeError:  # the system cannot start a thread
                self._renew(batch)

    def _run(self) -> None:
        interval = self._visibility_timeout_seconds / 8  # a renewal that fails has three more tries
        while True:
            try:
                with self._changed:
                    if self._held or self._was_used:
                        self._was_used = False
                        try:
                            self._driver.clock.wait(self._changed, interval)
                        except TimeoutError:  # a clock for tests that was not advanced: nothing is due
                            continue
                    else:
                        self._is_idle = True
                        is_used = self._changed.wait_for(lambda: self._held, IDLE_SECONDS)
                        self._is_idle = False
                        if not is_used:
                            self._thread = None
                            return
                self.renew_due()
            except Exception:
                logger.exception("renewing leases failed; trying again")

    def _renew(self, leases: Sequence[Lease]) -> None:
        try:
            self._renew_leases([lease for lease in leases if not lease.is_lost()])
            self._renew_claims([lease for lease in leases if not lease.is_lost()])
        except DriverClosedError:
            for lease in leases:
                lease.lose()
        except Exception:
            logger.exception("renewing leases failed; trying again")
        finally:
            with self._changed:
                for lease in leases:
                    lease.is_renewing = False
                lost = [lease for lease in leases if lease in self._held and lease.is_lost()]
                for lease in lost:
                    lease.is_reported_lost = True
                self._changed.notify_all()
            for lease in lost:
                self.lost_count += 1
                self._on_lost(lease)

    def _renew_leases(self, leases: Sequence[Lease]) -> None:
        if not leases:
            return
        deadline = self._driver.clock.monotonic() + self._visibility_timeout_seconds
        failures = {
            failure.item.receipt_handle: failure.error
            for failure in self._driver.defer(
                [lease.delivery for lease in leases], self._visibility_timeout_seconds
            )
        }
        for lease in leases:
            error = failures.get(lease.delivery.receipt_handle)
            if error is None:
                lease.renewed(deadline)
            elif lease in self._held and not lease.is_settling:
                _note_failure(lease, error)

    def _renew_claims(self, leases: Sequence[Lease]) -> None:
        if self._store is None:
            return
        for lease in leases:
            claimed = lease.claimed
            if claimed is None:
                continue
            try:
                held = self._store.renew(claimed, self._visibility_timeout_seconds)
            except DeduplicationError as error:
                # A store that does not answer is asked once, not for each claim.
                logger.warning("claims could not be renewed: %s", error)
                return
            # A claim that is being completed is not held any more, even if the answer to the completion got lost.
            if not held and lease.claimed is claimed and not lease.is_completing:
                lease.lose()


def _note_failure(lease: Lease, error: MelangeError) -> None:
    if isinstance(error, LeaseLostError):
        lease.lose()
    logger.warning(
        "the lease of message %s could not be renewed: %s",
        lease.delivery.message.message_id,
        error,
        extra=delivery_log_fields(lease.delivery),
    )
