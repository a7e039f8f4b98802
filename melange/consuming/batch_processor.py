"""The processing of one poll's deliveries in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from melange.consuming.failures import StoreUnavailableError
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import Outcome
from melange.consuming.poison_messages import SUSPECT_RECEIVES, Suspects
from melange.consuming.processor import DeliveryProcessor
from melange.consuming.settling import Settler
from melange.messages import Delivery


class BatchProcessor:
    """Processes the deliveries of one poll, one after the other, and settles them together.

    ``store_is_available`` is False after the deduplication store was unavailable, until the caller sets it again.
    """

    def __init__(
        self, processor: DeliveryProcessor, keeper: LeaseKeeper, settler: Settler, suspects: Suspects
    ) -> None:
        self.store_is_available = True
        self._processor = processor
        self._keeper = keeper
        self._settler = settler
        self._suspects = suspects

    def process(self, deliveries: Sequence[Delivery], is_given_up: Callable[[], bool] | None) -> int:
        """Process and settle the deliveries, until ``is_given_up`` returns True; return the number of settled ones.

        Raises:
            StoreUnavailableError: the deduplication store is unavailable; what was not processed is released.
        """
        leases = self._keeper.hold(deliveries)
        finished: list[tuple[Lease, Outcome]] = []
        settled = 0
        batches = [leases]
        for delivery in deliveries:
            if delivery.receive_count >= SUSPECT_RECEIVES:
                batches = self._suspects.last_and_alone(leases)
                break
        try:
            for batch in batches:
                first = len(finished)
                try:
                    for lease in batch:
                        if is_given_up is not None and is_given_up():
                            break
                        finished.append((lease, self._processor.process(lease)))
                finally:
                    settled += sum(self._settler.settle(finished[first:]))
                if batch is not batches[0]:
                    self._suspects.survived()
        except BaseException as error:
            # The store is unavailable, or the process is asked to end: what is finished was settled all the same, the
            # rest is released.
            self.store_is_available = not isinstance(error, StoreUnavailableError)
            of_store = self._processor.failures.of_store
            self._release_rest(
                leases,
                finished,
                lambda lease: 0 if self.store_is_available else of_store(lease).delay_seconds,
            )
            raise
        if len(finished) < len(leases):  # given up: nothing of the rest may begin and use up an attempt
            self._release_rest(leases, finished, lambda lease: 0)
        return settled

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Make visible again what was received and is not processed."""
        if deliveries:
            self._settler.defer([(lease, 0) for lease in self._keeper.hold(deliveries)])

    def _release_rest(
        self,
        leases: Sequence[Lease],
        finished: Sequence[tuple[Lease, Outcome]],
        delay_seconds: Callable[[Lease], float],
    ) -> None:
        done = {lease for lease, _ in finished}
        self._settler.defer([(lease, delay_seconds(lease)) for lease in leases if lease not in done])
