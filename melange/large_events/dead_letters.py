"""Dead letters with the bodies of large events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from melange.drivers.base import QueueDepth
from melange.drivers.dead_letters import NO_NOTES, DeadLetterAccess, FoundDeadLetter, MessageMoves
from melange.errors import Failure, MelangeError
from melange.large_events.payloads import Payloads, of_deliveries, original_of
from melange.messages import Delivery, Queue


class LargeDeadLetters:
    """The dead letters of another driver. What is sent on is the pointer, so its payload must stay."""

    def __init__(
        self, access: DeadLetterAccess, payloads: Payloads, keep_payload_of: Callable[[Delivery], None]
    ) -> None:
        self._access = access
        self._payloads = payloads
        self._keep_payload_of = keep_payload_of

    @property
    def counts_are_estimates(self) -> bool:
        return self._access.counts_are_estimates

    @property
    def moves(self) -> MessageMoves | None:
        return self._access.moves

    def measure(self, queue: Queue) -> QueueDepth:
        return self._access.measure(queue)

    def sources(self, dead_letter_queue: Queue) -> dict[str, str]:
        return self._access.sources(dead_letter_queue)

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        found = self._access.browse(queue, visibility_timeout_seconds=visibility_timeout_seconds)
        return [one._replace(delivery=self._readable(one.delivery)) for one in found]

    def resend(
        self, deliveries: Sequence[Delivery], target: Queue, *, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Failure[Delivery]]:
        for delivery in deliveries:
            self._keep_payload_of(delivery)
        return of_deliveries(
            self._access.resend([original_of(one) for one in deliveries], target, notes=notes), deliveries
        )

    def _readable(self, delivery: Delivery) -> Delivery:
        try:
            return self._payloads.with_payload(delivery)
        except MelangeError:  # the store is out of reach: the pointer is better than nothing
            return delivery
