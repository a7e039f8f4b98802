"""Decide the outcome of a delivery, and of those of one poll: decode, choose the listeners, attempt each. Only this module decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from melange.consuming.attempts import Attempts, Steps
from melange.consuming.failures import Failures, StoreUnavailableError
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import UNHANDLED, DeadLetter, Outcome, checked_outcome, combined
from melange.consuming.poison_messages import SUSPECT_RECEIVES, Suspects
from melange.consuming.settling import Settler
from melange.consuming.subscriptions import Subscriptions
from melange.errors import DecodeError, shortened
from melange.messages import Delivery
from melange.middleware import Middleware, wrapped
from melange.serialization.serializer import EventSerializer

if TYPE_CHECKING:
    from melange.serialization.serializer import EventTypeOf

logger = logging.getLogger(__name__)

MOST_WARNED_TYPES = 100


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event, and returns the outcome.

    It decides and does not settle: it never calls the driver. Thread-safe if the listeners are. ``concurrency`` is how
    many deliveries of the queue run at once. ``waits`` is True if hooks around deliveries or listeners must wait in a
    thread for asynchronous listeners; ``answers_at_once`` if no step of an asynchronous listener blocks.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        attempts: Attempts,
        failures: Failures,
        *,
        middleware: Sequence[Middleware],
        event_type: EventTypeOf | None,
        on_unhandled: Literal["acknowledge", "reject"],
    ) -> None:
        self.attempts = attempts
        self.failures = failures
        self.concurrency = 1
        self.unhandled_count = 0
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._event_type = event_type
        self._on_unhandled = on_unhandled
        self._warned_types: set[str] = set()
        self._around_delivery = [
            one.around_delivery
            for one in middleware
            if type(one).around_delivery is not Middleware.around_delivery
        ]
        self.process: Callable[[Lease], Outcome] = (
            self._process_wrapped if self._around_delivery else self._process
        )
        """Returns the outcome of running every listener that accepts the delivery's event.

        What listeners and middleware raise becomes an outcome. It raises ``StoreUnavailableError`` when the store is
        unavailable: then nothing was decided about the delivery.
        """
        self.waits = bool(self._around_delivery) or attempts.is_hooked
        self.answers_at_once = attempts.store is None or attempts.store.answers_at_once

    def _process(self, lease: Lease) -> Outcome:
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        subscriptions, attempt = self._subscriptions, self.attempts.make
        listeners = subscriptions.known.get(event_type_name) or subscriptions.accepting(event_type_name)
        if len(listeners) == 1:
            return attempt(listeners[0], event_type_name, data, lease)
        if not listeners:
            return self._unhandled(event_type_name)
        return combined([attempt(listener, event_type_name, data, lease) for listener in listeners])

    def steps(self, lease: Lease) -> Steps:
        """Do the same as ``process``, without a thread that waits for asynchronous listeners, and without hooks.

        The steps may run in different threads, one after the other, and all in one context. Before a step that may block,
        it yields None.
        """
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        listeners = self._subscriptions.accepting(event_type_name)
        if not listeners:
            return self._unhandled(event_type_name)
        outcomes = []
        for listener in listeners:
            if listener.is_async:
                outcome = yield from self.attempts.steps(listener, event_type_name, data, lease)
            else:
                yield None
                outcome = self.attempts.make(listener, event_type_name, data, lease)
            outcomes.append(outcome)
        return combined(outcomes) if len(outcomes) > 1 else outcomes[0]

    def _process_wrapped(self, lease: Lease) -> Outcome:
        around = [partial(hook, lease.delivery) for hook in self._around_delivery]
        try:
            return checked_outcome(wrapped(lambda: self._process(lease), around))
        except StoreUnavailableError:
            raise
        except Exception as error:
            return self.failures.outside_of_listeners(lease, error, "middleware")

    def _unhandled(self, event_type_name: str) -> Outcome:
        name = shortened(event_type_name)
        if self._on_unhandled == "reject":
            return DeadLetter(f"no listener accepts {name}")
        self.unhandled_count += 1
        if name not in self._warned_types and len(self._warned_types) < MOST_WARNED_TYPES:
            self._warned_types.add(name)
            logger.warning(
                "no listener accepts events of type %s: they are acknowledged. Subscribe a listener, filter them out, "
                "or dead-letter them with on_unhandled='reject'",
                name,
            )
        return UNHANDLED


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
