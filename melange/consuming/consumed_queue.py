"""A queue as its consumer works on it: receive, process, settle."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Literal

from melange.consuming.leases import Lease
from melange.consuming.middleware import Middleware, checked_outcome, wrapped
from melange.consuming.once import OncePerMessage
from melange.consuming.outcomes import Outcome
from melange.consuming.processor import DeliveryProcessor
from melange.consuming.settling import Settlement, Settler
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication.base import DeduplicationStore, RunCoroutine
from melange.drivers.base import MessagingDriver
from melange.errors import DecodeError, DeduplicationError
from melange.failpoints import fail_point
from melange.messages import Delivery, Queue
from melange.serialization.serializer import EventSerializer


class ConsumedQueue:
    """The three steps of consuming, for the loops that take them: ``consume_event`` and the worker.

    Thread-safe if the listeners are.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        queue: Queue,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        *,
        store: DeduplicationStore | None,
        middleware: Sequence[Middleware],
        max_attempts: int,
        backoff: Callable[[int], float],
        visibility_timeout_seconds: int,
        wait_seconds: int,
        ordered_by: str | None,
        on_unhandled: Literal["acknowledge", "reject"],
        on_unavailable: Literal["retry", "process"],
        on_reject: Literal["skip", "block"],
    ) -> None:
        self.driver = driver
        self.queue = queue
        self.subscriptions = subscriptions
        self.store = store
        self.needs_store = store is not None and on_unavailable == "retry"
        self.visibility_timeout_seconds = visibility_timeout_seconds
        self.wait_seconds = wait_seconds
        self._serializer = serializer
        self._ordered_by = ordered_by
        self._middleware = middleware
        once = () if store is None else (OncePerMessage(store, backoff, on_unavailable),)
        self._processor = DeliveryProcessor(
            subscriptions,
            serializer,
            middleware=(*middleware, *once),
            max_attempts=max_attempts,
            backoff=backoff,
            on_unhandled=on_unhandled,
        )
        self._settler = Settler(driver, queue, backoff, keeps_rejected=queue.is_fifo and on_reject == "block")

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Run asynchronous listeners with ``run_coroutine``, and the store that works for such."""
        self._processor.run_coroutine = run_coroutine
        if self.store is not None:
            self.store.use_event_loop(run_coroutine)

    def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Take at most ``limit`` deliveries, to be processed and settled, or released, before their deadlines."""
        # Deadlines count from before the request, the only moment that is known not to be too late: a process
        # may be held up just when the answer comes. The wait must not eat the time that is left for the work.
        longest = self.driver.capabilities.max_visibility_seconds
        visibility_timeout_seconds = min(self.visibility_timeout_seconds + wait_seconds, longest)
        received: list[Delivery] = []

        def poll() -> list[Delivery]:
            received[:] = self.driver.receive(
                self.queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
            )
            if received:
                fail_point("after-receive")
            return received

        try:
            wrapped(poll, [partial(one.around_poll, self.queue) for one in self._middleware])
        except BaseException:
            self.release(received)
            raise
        return received

    def process(self, lease: Lease) -> Outcome:
        """Run the listeners for a delivery and return what is to be done with it; settles nothing.

        Raises:
            DeduplicationError: the deduplication store could not be asked; nothing was decided.
        """
        if not self._middleware:
            return self._processor.process(lease)
        around = [partial(one.around_delivery, lease.delivery) for one in self._middleware]
        try:
            return checked_outcome(wrapped(lambda: self._processor.process(lease), around))
        except DeduplicationError:
            raise
        except Exception as error:
            return self._processor.failed(lease, error, "middleware")

    def failed(self, lease: Lease, error: BaseException) -> Outcome:
        """Return the outcome of a delivery whose processing broke off with ``error``, as a failed attempt."""
        return self._processor.failed(lease, error, "processing")

    def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> Settlement:
        """Carry outcomes out: acknowledge, defer, or set aside. What the broker does not take is logged."""
        return self._settler.settle(outcomes)

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """Give back deliveries that nobody has worked on, visible to others at once; return how many it were."""
        return self._settler.release(deliveries)

    def lane_of(self, delivery: Delivery) -> Hashable | None:
        """Return what the delivery must be kept in order with, None for nothing."""
        if self.queue.is_fifo:
            return delivery.message.message_group_id
        if self._ordered_by is None:
            return None
        try:
            _, data = self._serializer.read(delivery.message)
        except DecodeError:
            return None
        value = data.get(self._ordered_by)
        return value if isinstance(value, (str, int)) else None
