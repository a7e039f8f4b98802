"""Acknowledging and deferring: in tens, per queue, never for a delivery whose time has run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from melange.clock import Clock
from melange.drivers.aws.batching import run_batch
from melange.drivers.aws.calls import Answer, BrokerCalls
from melange.drivers.aws.clients import Clients
from melange.drivers.aws.errors import error_for_settled_entry, lease_lost
from melange.drivers.aws.wire import Entry
from melange.drivers.limits import MAX_BATCH
from melange.errors import MelangeError
from melange.messages import Delivery, Failure


class Settler:
    """Settles deliveries. Thread-safe."""

    def __init__(self, calls: BrokerCalls, clients: Clients, clock: Clock) -> None:
        self._calls = calls
        self._clients = clients
        self._clock = clock

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        """See ``MessagingDriver.acknowledge``."""
        return self._settle(deliveries, self._clients.sqs.delete_message_batch, "sqs:DeleteMessage", {})

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        """See ``MessagingDriver.defer``."""
        return self._settle(
            deliveries,
            self._clients.sqs.change_message_visibility_batch,
            "sqs:ChangeMessageVisibility",
            {"VisibilityTimeout": seconds},
        )

    def _settle(
        self, deliveries: Sequence[Delivery], method: Callable[..., Answer], action: str, fields: Entry
    ) -> list[Failure[Delivery]]:
        self._calls.check_open()
        failures: list[Failure[Delivery]] = []
        for batch in _tens_by_queue(deliveries):
            # Asked again for each call: the one before may have taken long. A standard queue takes a
            # late handle without a word, and would so remove what somebody else is working on.
            now = self._clock.monotonic()
            held = [delivery for delivery in batch if now < delivery.deadline]
            failures += [
                Failure(delivery, lease_lost(delivery.queue.name))
                for delivery in batch
                if now >= delivery.deadline
            ]
            if held:
                failures += self._settle_batch(held, method, action, fields)
        return failures

    def _settle_batch(
        self, deliveries: Sequence[Delivery], method: Callable[..., Answer], action: str, fields: Entry
    ) -> list[Failure[Delivery]]:
        queue = deliveries[0].queue

        def entry_of(delivery: Delivery) -> Entry:
            return {"ReceiptHandle": delivery.receipt_handle, **fields}

        def call(entries: list[Entry]) -> Answer:
            return self._calls(method, action, queue.name, QueueUrl=queue.address, Entries=entries)

        def error_of(entry: Entry) -> MelangeError:
            return error_for_settled_entry(entry, action, queue.name)

        try:
            return run_batch(deliveries, entry_of, call, error_of, self._calls.pause)
        except MelangeError as error:
            return [Failure(delivery, error) for delivery in deliveries]


def _tens_by_queue(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    by_queue: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue.address, []).append(delivery)
    for of_queue in by_queue.values():
        for start in range(0, len(of_queue), MAX_BATCH):
            yield of_queue[start : start + MAX_BATCH]
