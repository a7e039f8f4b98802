"""The consumer: one queue, its listeners, one poll at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Concatenate, TypeVar, overload

from melange.backoff import dependable
from melange.consuming.attempts import Attempts
from melange.consuming.failures import Failures
from melange.consuming.gates import Gate, checked_gates
from melange.consuming.leases import LeaseKeeper
from melange.consuming.listener import EventType, ExchangeListener
from melange.consuming.options import (
    Deduplication,
    QueueOptions,
    RetryPolicy,
    check_kind,
    check_time_limit,
    resolved_deduplication,
)
from melange.consuming.poison_messages import Suspects
from melange.consuming.processor import BatchProcessor, DeliveryProcessor
from melange.consuming.queue_declaration import QueueDeclaration
from melange.consuming.receiving import Receiver
from melange.consuming.settling import Settler, SettlingBroker
from melange.consuming.subscriptions import Subscription, Subscriptions, listener_name, subscription_for
from melange.deduplication.base import DeduplicationStore, NoDeduplication, RunCoroutine
from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import collect
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import check_whole_seconds
from melange.errors import (
    ConfigurationError,
    HandlerNotFoundError,
    InvalidNameError,
)
from melange.events import EventMessage
from melange.messages import Delivery
from melange.middleware import Middleware, checked_middleware
from melange.serialization.serializer import EventTypeOf

ListenerFunction = TypeVar("ListenerFunction", bound=Callable[..., object])
EventT = TypeVar("EventT", bound=EventMessage)
Result = TypeVar("Result")


class ExchangeMessageConsumer:
    """Consumes the events of one queue with its listeners.

    Creating it declares the queue, its bindings to the topics and its dead-letter queue on the driver given, or else the
    one in use at that moment, so that nothing published afterwards is missed. It calls the broker, and blocks meanwhile. Listeners may be added and removed at any
    time from any thread; ``consume_event`` may run in several threads, if the listeners can.
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
        event_type: EventTypeOf | None = None,
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
            queue: how the queue is declared and received from.
            deduplication: the store that keeps listeners from running twice for one message, or how to deduplicate; by
                default a store in this process's memory. ``NO_DEDUPLICATION`` switches it off: then the receives of a
                message count as attempts.
            middleware: hooks around polls, deliveries, listeners and settling, the first outermost, inside of those of
                the driver.
            event_type: finds the type of messages that melange did not publish: see ``melange.serialization.aws_events``.
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
        if event_type is not None and not callable(event_type):
            raise ConfigurationError(f"event_type= takes a function of body and headers, not {event_type!r}")
        self.driver = DriverManager.instance().get_driver() if driver is None else driver
        capabilities = self.driver.capabilities
        check_whole_seconds(
            "visibility_timeout_seconds",
            queue.visibility_timeout_seconds,
            1,
            capabilities.max_visibility_seconds,
        )
        check_whole_seconds("wait_seconds", queue.wait_seconds, 0, capabilities.max_wait_seconds)
        check_time_limit(timeout_seconds)
        deduplication, store = resolved_deduplication(deduplication, self.driver)
        self.options = queue
        self.keeps_attempts = store is not None and store.outlives_process
        self.needs_store = store is not None and deduplication.on_unavailable == "retry"
        self.timeout_seconds = timeout_seconds
        self.declaration = QueueDeclaration(
            event_queue_name,
            topics_to_subscribe,
            filter_events,
            queue,
            retry.max_attempts,
            outlives_process=self.keeps_attempts,
        )
        is_collected = collect(self)
        self.queue = self.declaration.undeclared() if is_collected else self.declaration.queue(self.driver)
        self.gates = checked_gates(flow, self.queue, self.driver.clock)
        hooks_of_gates = [hook for gate in flow for hook in gate.hooks]
        self.middleware = (*self.driver.middleware_for(self), *middleware, *hooks_of_gates)
        self.subscriptions = Subscriptions()
        self.serializer = self.driver.serializer
        failures = Failures(retry, rejected_stay=self._keeps_rejected or self.queue.dead_letter_queue is None)
        attempts = Attempts(
            self.serializer,
            store,
            failures,
            deduplication=deduplication,
            middleware=self.middleware,
            timeout_seconds=timeout_seconds,
        )
        self.processor = DeliveryProcessor(
            self.subscriptions,
            self.serializer,
            attempts,
            failures,
            middleware=self.middleware,
            event_type=event_type,
            on_unhandled=queue.on_unhandled,
        )
        self.store = store
        self._backoff = dependable(retry.backoff)
        self.event_type = event_type
        keeper, suspects = LeaseKeeper(self.driver, queue.visibility_timeout_seconds, store), Suspects()
        self._batches = BatchProcessor(self.processor, keeper, self.settler(keeper, suspects), suspects)
        self._receiver = Receiver(
            self.driver,
            self.queue,
            self.gates,
            self.middleware,
            visibility_timeout_seconds=queue.visibility_timeout_seconds,
            release=self._batches.release,
        )
        # On FIFO a failure has to stop the rest of its group, and to release the followers would count as a receive of
        # each: one at a time, no message pays for another.
        self._limit = 1 if self.queue.is_fifo else capabilities.max_receive_batch

    def subscribe(self, listener: ExchangeListener) -> None:
        """Add a listener, to be run after those that are there.

        Raises:
            ConfigurationError: it is not a listener, or asks for something that does not exist.
            DuplicateHandlerError: a listener of this name is there already.
        """
        if not isinstance(listener, (ExchangeListener, type)):
            raise ConfigurationError(
                f"{listener!r} is not an ExchangeListener; a function is subscribed with "
                "@consumer.listener('EventTypeName')"
            )
        self._add(subscription_for(listener, store_keywords=self._store_keywords))

    def unsubscribe(self, listener: object) -> None:
        """Remove a listener object, or a function that was subscribed with ``listener``.

        Raises:
            HandlerNotFoundError: it is not subscribed.
        """
        if not self.subscriptions.remove(listener):
            raise HandlerNotFoundError(f"{listener!r} is not subscribed to queue {self.queue.name}")

    @overload  # a function for one class takes that class
    def listener(  # type: ignore[overload-overlap]
        self, event_type: type[EventT], /, *, name: str | None = ..., timeout_seconds: float | None = ...
    ) -> Callable[
        [Callable[Concatenate[EventT, ...], Result]], Callable[Concatenate[EventT, ...], Result]
    ]: ...

    @overload
    def listener(
        self, *event_types: EventType, name: str | None = ..., timeout_seconds: float | None = ...
    ) -> Callable[[ListenerFunction], ListenerFunction]: ...

    def listener(
        self, *event_types: EventType, name: str | None = None, timeout_seconds: float | None = None
    ) -> Callable[[Any], Any]:
        """Subscribe the decorated function for these event types, for all when there are none.

        ``@consumer.listener("ProductAdded")``; the function, or another callable, takes what ``ExchangeListener.process``
        may. Its ``__qualname__`` is the listener's stable name unless ``name`` gives another. ``timeout_seconds`` limits
        one run.
        """
        if any(callable(one) and not isinstance(one, type) for one in event_types):
            raise ConfigurationError(
                "write @consumer.listener() with parentheses; event types go inside them"
            )

        def subscribe(function: ListenerFunction) -> ListenerFunction:
            self._add(
                subscription_for(
                    function,
                    event_types,
                    name=name,
                    timeout_seconds=timeout_seconds,
                    store_keywords=self._store_keywords,
                )
            )
            return function

        return subscribe

    def batch_listener(
        self,
        *event_types: EventType,
        max_events: int = 100,
        max_seconds: float = 1.0,
        name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Callable[[ListenerFunction], ListenerFunction]:
        """Subscribe the decorated function for lists of events, for bulk inserts and calls: ``@consumer.batch_listener(...)``.

        It takes a list of events, and their ``message_ids`` if it has such a parameter; it may be ``async def``. With an
        inbox of asynchronous sessions an ``async def`` function may have the parameter ``sessions``: one for each event, with
        the transaction that has the event's mark. It needs a worker, and a batch never has more events than the worker runs at once: set its ``concurrency`` to ``max_events``.
        Each event has its own claim, mark and attempts. If the function raises, all of its events have failed, or with
        ``PartialFailure`` those that it names. A batch has one event of a FIFO group at most, so the order is kept.

        Args:
            event_types: as for ``listener``.
            max_events: the most events of a batch.
            max_seconds: how long a batch waits for more events, from its first one on.
            name: as for ``listener``.
            timeout_seconds: the limit of one run, with the wait for other events.
        """
        # It brings asyncio, which plain listeners do without.
        from melange.consuming.batch_listeners import BatchListener  # noqa: PLC0415

        def subscribe(function: ListenerFunction) -> ListenerFunction:
            if self.store is not None and self.store.listeners_are_async is False:
                raise ConfigurationError(
                    f"batch listener {name or listener_name(function)} needs an inbox of asynchronous sessions, "
                    "Inbox(async_sessionmaker(...)): its events wait for each other on an event loop"
                )
            batches = BatchListener(
                function,
                max_events=max_events,
                max_seconds=max_seconds,
                concurrency=lambda: self.processor.concurrency,
                give_up=self.processor.attempts.limited_runs.give_up,
            )
            subscription = subscription_for(
                batches.listener,
                event_types,
                name=name or listener_name(function),
                timeout_seconds=timeout_seconds,
                store_keywords=self._store_keywords,
            )
            self._add(replace(subscription, listener=function))
            return function

        return subscribe

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
        if not self._batches.store_is_available:
            self.check_store()
            self._batches.store_is_available = True
        deliveries = self._receiver.receive(self._limit, wait_seconds)
        return self._batches.process(deliveries, is_given_up) if deliveries else 0

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

    def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Take at most ``limit`` deliveries, to be processed and settled, or released, before their deadlines.

        Return ``[]`` at once while the consumer is paused, or over a limit.
        """
        return self._receiver.receive(limit, wait_seconds)

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

    # --- the rest is private -----------------------------------------------------------------------

    @property
    def _store_keywords(self) -> tuple[str, ...]:
        return () if self.store is None else self.store.keyword_names

    @property
    def _keeps_rejected(self) -> bool:
        return self.queue.is_fifo and self.options.on_reject == "block"

    def _add(self, subscription: Subscription) -> None:
        store = self.store
        if store is not None and store.listeners_are_async not in (None, subscription.is_async):
            raise ConfigurationError(
                f"listener {subscription.name} must {'not ' if subscription.is_async else ''}be `async def`: "
                f"{type(store).__name__} works with {'a synchronous' if subscription.is_async else 'an asynchronous'} "
                "session here"
            )
        for event_class in subscription.event_classes.values():
            self.serializer.check_event_class(event_class)
        self.subscriptions.add(subscription)
