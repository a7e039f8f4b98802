"""The consumer: one queue, its listeners, one poll at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from melange.backoff import dependable
from melange.consuming.gates import Gate, checked_gates
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.listener import EventType
from melange.consuming.options import (
    Deduplication,
    QueueOptions,
    RetryPolicy,
    check_kind,
    resolved_deduplication,
)
from melange.consuming.outcomes import Failures, Outcome, StoreUnavailableError
from melange.consuming.poison_messages import SUSPECT_RECEIVES, Suspects
from melange.consuming.processor import Attempts, DeliveryProcessor
from melange.consuming.queue_declaration import QueueDeclaration
from melange.consuming.settling import Settler, SettlingBroker
from melange.consuming.subscriptions import ListenerRegistry
from melange.consuming.time_limit import TimeLimits
from melange.deduplication.base import DeduplicationStore, NoDeduplication, RunCoroutine
from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import add_to_collection
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import check_whole_seconds
from melange.errors import ConfigurationError, InvalidNameError
from melange.messages import Delivery
from melange.middleware import Middleware, checked_middleware, wrapped


class ExchangeMessageConsumer(ListenerRegistry):
    """Consumes the events of one queue with its listeners.

    Creating it declares the queue, its bindings to the topics and its dead-letter queue on the driver given, or else the
    one in use at that moment, so that nothing published afterwards is missed. It calls the broker, and blocks meanwhile.
    Listeners may be added and removed at any time from any thread; ``consume_event`` may run in several threads, if the
    listeners can.
    """

    def __init__(
        self,
        event_queue_name: str,
        *topics_to_subscribe: str,
        driver: MessagingDriver | None = None,
        filter_events: Sequence[EventType] | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        queue: QueueOptions = QueueOptions(),  # noqa: B008
        deduplication: DeduplicationStore | Deduplication | NoDeduplication | None = None,
        middleware: Sequence[Middleware] = (),
        timeout_seconds: float | None = None,
        flow: Sequence[Gate] = (),
    ) -> None:
        """Declare the queue and get ready to consume.

        Args:
            event_queue_name: the queue; ``*.fifo`` for a FIFO queue. The ARN of a queue names an existing one.
            topics_to_subscribe: the topics to bind it to, created if need be; an ARN names an existing one.
            driver: the driver to use instead of the one in use.
            filter_events: the only event types that the topics pass on to this queue; ``()`` takes a filter off, None
                leaves it as it is.
            retry: how often and when a failed listener is tried again.
            queue: how the queue is declared and received from, and how its messages are read.
            deduplication: the store that keeps listeners from running twice for one message, or how to deduplicate; by
                default a store in this process's memory. ``NO_DEDUPLICATION`` switches it off: then the receives of a
                message count as attempts.
            middleware: hooks around polls, deliveries, listeners and settling, the first outermost, inside of those of
                the driver.
            timeout_seconds: how long one run of a listener may take, unless the listener says otherwise. Asynchronous
                ones are cancelled; plain ones are given up, and their thread is left to itself. Either is a failed
                attempt.
            flow: limits on what is received, such as ``RateLimit`` and ``CircuitBreaker`` of ``melange.flow``.

        Raises:
            NoDriverError: no driver was given or chosen.
            ConfigurationError: an argument is out of bounds, or contradicts what exists.
            QueueNotFoundError, TopicNotFoundError: with ``QueueOptions(declare=False)``, there is none.
        """
        if not isinstance(event_queue_name, str):
            raise InvalidNameError("queue", event_queue_name, "give its name as text, or its ARN")
        check_kind("driver", driver, MessagingDriver, type(None))
        check_kind("retry", retry, RetryPolicy)
        check_kind("queue", queue, QueueOptions)
        middleware = checked_middleware(middleware)
        self.driver = DriverManager.instance().get_driver() if driver is None else driver
        capabilities = self.driver.capabilities
        visibility, longest = queue.visibility_timeout_seconds, capabilities.max_visibility_seconds
        check_whole_seconds("visibility_timeout_seconds", visibility, 1, longest)
        check_whole_seconds("wait_seconds", queue.wait_seconds, 0, capabilities.max_wait_seconds)
        time_limits = TimeLimits(timeout_seconds)
        deduplication, store = resolved_deduplication(deduplication, self.driver)
        self.options = queue
        self.keeps_attempts = store is not None and store.outlives_process
        self.needs_store = store is not None and deduplication.on_unavailable == "retry"
        self.declaration = QueueDeclaration(
            event_queue_name,
            topics_to_subscribe,
            filter_events,
            queue,
            retry.max_attempts,
            outlives_process=self.keeps_attempts,
        )
        is_collected = add_to_collection(self)
        self.queue = self.declaration.undeclared() if is_collected else self.declaration.queue(self.driver)
        self.gates = checked_gates(flow, self.queue, self.driver.clock)
        hooks_of_gates = [hook for gate in flow for hook in gate.hooks]
        self.middleware = (*self.driver.middleware_for(self), *middleware, *hooks_of_gates)
        super().__init__(self.queue.name, self.driver.serializer, store, time_limits)
        self.processor = self._new_processor(retry, deduplication)
        self._backoff = dependable(retry.backoff)
        self._around_poll = [partial(one.around_poll, self.queue) for one in self.middleware]
        self._longest_visibility_seconds = longest
        self._store_is_available = True
        self._suspects = Suspects()
        self._keeper = LeaseKeeper(self.driver, visibility, store)
        self._settler = self.settler(self._keeper, self._suspects)
        # On FIFO a failure has to stop the rest of its group, and to release the followers would count as a receive of
        # each: one at a time, no message pays for another.
        self._limit = 1 if self.queue.is_fifo else capabilities.max_receive_batch

    def _new_processor(self, retry: RetryPolicy, deduplication: Deduplication) -> DeliveryProcessor:
        failures = Failures(retry, rejected_stay=self._keeps_rejected or self.queue.dead_letter_queue is None)
        attempts = Attempts(
            self.serializer,
            self.store,
            failures,
            deduplication=deduplication,
            middleware=self.middleware,
            time_limits=self.time_limits,
        )
        return DeliveryProcessor(
            self.subscriptions,
            self.serializer,
            attempts,
            failures,
            middleware=self.middleware,
            event_type=self.options.event_type,
            on_unhandled=self.options.on_unhandled,
        )

    def consume_event(self, wait_seconds: int | None = None) -> int:
        """Poll once and process what came; return the number of settled deliveries.

        Blocks until messages come, at most ``wait_seconds`` (by default the consumer's), and then until their listeners
        have run and the acknowledgements are sent. It receives up to ten messages at once, one from a FIFO queue. Their
        leases are renewed meanwhile. Exceptions of listeners are logged and settled, not raised.

        Raises:
            ConfigurationError: there is no listener, or an asynchronous one.
            DriverError: the broker is unavailable.
            DeduplicationError: the deduplication store is unavailable; the messages were released, and until it is
                available none is received.
        """
        if self.subscriptions.need_event_loop:
            raise ConfigurationError(
                f"queue {self.queue.name} has asynchronous listeners, which need an event loop: use consumer.run(), "
                "Worker(consumer).run() or `await consumer.consume_event_async()`"
            )
        return self._consume(wait_seconds, None)

    async def consume_event_async(self, wait_seconds: int | None = None) -> int:
        """Poll once and process what came, without blocking the event loop; return the number of settled deliveries.

        As ``consume_event``. Asynchronous listeners run on this event loop, others on a thread. If the awaiting task is
        cancelled, a listener at work is cancelled too, and what the open poll still receives is released.

        Raises:
            ConfigurationError: there is no listener, or no event loop of asyncio runs here.
            DriverError, DeduplicationError: as for ``consume_event``.
        """
        # It brings asyncio, half of what importing melange costs otherwise.
        from melange.asynchronous import OnLoop  # noqa: PLC0415

        on_loop = OnLoop("consume_event_async")
        self.use_event_loop(on_loop.run)
        try:
            return await on_loop.in_thread(lambda: self._consume(wait_seconds, on_loop.is_given_up))
        except BaseException:
            self._keeper.begin_no_listener()  # first: where a listener is cancelled, the next would begin
            on_loop.give_up()
            self.driver.end_waits(self.queue)
            raise

    def _consume(self, wait_seconds: int | None, is_given_up: Callable[[], bool] | None) -> int:
        if not self.subscriptions.all:
            self.require_listeners()
        if wait_seconds is None:
            wait_seconds = self.options.wait_seconds
        else:
            check_whole_seconds("wait_seconds", wait_seconds, 0, self.driver.capabilities.max_wait_seconds)
        if not self._store_is_available:
            self.check_store()
            self._store_is_available = True
        deliveries = self.receive(self._limit, wait_seconds)
        return self._process(deliveries, is_given_up) if deliveries else 0

    def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Take at most ``limit`` deliveries, to be processed and settled, or released, before their deadlines.

        Return ``[]`` at once while the consumer is paused, or over a limit. What was received is released if a hook or
        a gate raises after it.
        """
        gates = self.gates
        is_limited = not gates.is_open
        if is_limited:
            limit = gates.allowed(limit)
            if limit <= 0:
                return []
        # Deadlines count from before the request, the only moment that is known not to be too late: a process may be
        # held up just when the answer comes. The wait must not use up the time that is left for the work.
        seconds = min(
            self.options.visibility_timeout_seconds + wait_seconds, self._longest_visibility_seconds
        )
        if not (is_limited or self._around_poll):
            return self.driver.receive(self.queue, limit, wait_seconds, visibility_timeout_seconds=seconds)
        received: list[Delivery] = []

        def poll() -> list[Delivery]:
            deliveries = self.driver.receive(
                self.queue, limit, wait_seconds, visibility_timeout_seconds=seconds
            )
            received.extend(deliveries)
            return deliveries  # a hook may do to it what it likes

        try:
            wrapped(poll, self._around_poll)
            if is_limited:
                gates.received(len(received))
        except BaseException:
            if received:
                self._settler.defer([(lease, 0) for lease in self._keeper.hold(received)])
            raise
        return received

    def _process(self, deliveries: Sequence[Delivery], is_given_up: Callable[[], bool] | None) -> int:
        """Process the deliveries one after the other, and settle them together; return the number of settled ones.

        A suspected poison message comes last and is settled alone. Once ``is_given_up`` returns True none begins any more.
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
                        finished.append((lease, self.processor.process(lease)))
                finally:
                    settled += sum(self._settler.settle(finished[first:]))
                if batch is batches[0]:
                    continue
                self._suspects.survived()
        except BaseException as error:
            # The store is unavailable, or the process is asked to end: what is finished was settled all the same, the
            # rest is released.
            self._store_is_available = not isinstance(error, StoreUnavailableError)
            self._release_rest(leases, finished)
            raise
        if len(finished) < len(leases):  # given up: nothing of the rest may begin and use up an attempt
            self._release_rest(leases, finished)
        return settled

    def _release_rest(self, leases: Sequence[Lease], finished: Sequence[tuple[Lease, Outcome]]) -> None:
        done = {lease for lease, _ in finished}
        of_store = self.processor.failures.of_store
        self._settler.defer(
            [
                (lease, 0 if self._store_is_available else of_store(lease).delay_seconds)
                for lease in leases
                if lease not in done
            ]
        )

    def run(self, *, concurrency: int = 10, grace_seconds: float = 25.0) -> int:
        """Consume until the process is stopped; the short form of ``Worker(consumer).run()``."""
        # It brings asyncio, half of what importing melange costs otherwise, and publishers have no use for it.
        from melange.consuming.worker import Worker  # noqa: PLC0415

        return Worker(self, concurrency=concurrency, grace_seconds=grace_seconds).run()

    # --- for the loops that consume: consume_event and the worker ----------------------------------

    def require_listeners(self) -> None:
        """Raise ``ConfigurationError`` if there is no listener."""
        if not self.subscriptions.all:
            raise ConfigurationError(
                f"nothing listens on queue {self.queue.name}: subscribe a listener first, or messages would be "
                "acknowledged without having been processed"
            )

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Run asynchronous listeners with this function, which blocks until a coroutine has ended."""
        self.processor.attempts.run_coroutine = run_coroutine
        if self.store is not None:
            self.store.use_event_loop(run_coroutine)

    def pause(self) -> None:
        """Receive nothing until ``resume``; what is in flight continues. Idempotent, from any thread.

        A poll that waits already is ended if the broker can do that without loss. On SQS it may still receive messages.
        """
        self.gates.pause()
        self.driver.end_waits(self.queue)

    def resume(self) -> None:
        """Receive again. Idempotent, from any thread."""
        self.gates.resume()

    def settler(
        self, keeper: LeaseKeeper, suspects: Suspects, broker: SettlingBroker | None = None
    ) -> Settler:
        """Return the settler for deliveries with leases from ``keeper``; ``broker`` replaces the driver."""
        return Settler(
            self.driver if broker is None else broker,
            self.queue,
            self.store,
            self._backoff,
            keeper=keeper,
            suspects=suspects,
            keeps_rejected=self._keeps_rejected,
            middleware=self.middleware,
        )

    def check_store(self) -> None:
        """Raise ``DeduplicationError`` while the deduplication store is unavailable."""
        if self.store is not None:
            self.store.check()
            self.processor.attempts.release_unanswered()

    @property
    def _keeps_rejected(self) -> bool:
        return self.queue.is_fifo and self.options.on_reject == "block"
