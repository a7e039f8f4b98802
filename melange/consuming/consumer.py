"""The consumer: one queue, its listeners, one poll at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from melange.backoff import Backoff, dependable
from melange.consuming.consumed_queue import ConsumedQueue
from melange.consuming.declaration import QueueDeclaration
from melange.consuming.leases import Lease
from melange.consuming.listener import (
    EventType,
    ExchangeListener,
    Subscription,
    resolve_event_types,
    subscription_for,
    subscription_for_function,
)
from melange.consuming.middleware import Middleware
from melange.consuming.outcomes import Outcome
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication.base import DeduplicationStore, NoDeduplication
from melange.deduplication.memory import MemoryDeduplicationStore
from melange.drivers.base import EventFilter, MessagingDriver, NoDeadLetterQueue
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import check_whole_seconds
from melange.errors import (
    ConfigurationError,
    DeduplicationError,
    HandlerNotFoundError,
    InvalidNameError,
)
from melange.messages import Delivery, Queue
from melange.serialization.serializer import EventSerializer

ListenerFunction = TypeVar("ListenerFunction", bound=Callable[..., object])


class ExchangeMessageConsumer:
    """Consumes the events of one queue with its listeners.

    Building it declares the queue, its bindings to the topics and its dead-letter queue on the driver
    given, or else the one in use at that moment, so that nothing published afterwards is missed. The
    listeners may be changed at any time from any thread; ``consume_event`` may run in several threads, if
    the listeners can.
    """

    def __init__(
        self,
        event_queue_name: str,
        *topics_to_subscribe: str,
        driver: MessagingDriver | None = None,
        filter_events: Sequence[EventType] | None = None,
        filter_scope: Literal["headers", "body"] = "headers",
        dead_letter_queue_name: str | NoDeadLetterQueue | None = None,
        max_attempts: int = 5,
        visibility_timeout_seconds: int = 30,
        wait_seconds: int = 20,
        on_unhandled: Literal["acknowledge", "reject"] = "acknowledge",
        backoff: Callable[[int], float] | None = None,
        deduplication: DeduplicationStore | NoDeduplication | None = None,
        on_unavailable: Literal["retry", "process"] = "retry",
        middleware: Sequence[Middleware] = (),
        ordered_by: str | None = None,
        on_reject: Literal["skip", "block"] = "skip",
        declare: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Declare the queue and get ready to consume.

        Args:
            event_queue_name: the queue; ``*.fifo`` for a FIFO queue. With ``declare=False``, also an ARN.
            topics_to_subscribe: the topics to bind it to, created if need be; an ARN names an existing one.
            driver: the driver to use instead of the one in use.
            filter_events: the only event types that the topics shall pass on to this queue.
            filter_scope: where the broker reads the type: ``"headers"`` is free, but blind to messages that
                were published without melange; ``"body"`` sees them, and Amazon bills for it.
            dead_letter_queue_name: where rejected messages go: by default ``<queue>-dlq``, made together with
                the queue; a name of your own; None for none, and then what is rejected stays in the queue.
            max_attempts: after how many failed attempts a message is rejected.
            visibility_timeout_seconds: how long a received message is kept from others, at least, and up to
                ``wait_seconds`` longer; more than the slowest batch of ten takes.
            wait_seconds: how long ``consume_event`` waits for a message by default, 0 to 20.
            on_unhandled: what becomes of a message that no listener accepts.
            backoff: how many seconds to wait after the given number of attempts; by default 1 s doubling
                to 15 minutes, with full jitter.
            deduplication: the store that keeps listeners from running twice for one message: by default the
                process's own in memory; None for no deduplication.
            on_unavailable: while the store is out of reach, ``"retry"`` gives messages back and waits, and
                ``"process"`` runs the listeners without deduplication.
            middleware: hooks around polls, deliveries and listeners, the first outermost.
            ordered_by: the event field by which a ``Worker`` keeps events in order on a standard queue: of what
                it has in hand, one at a time for each value, in the order of receipt. Other workers and
                redeliveries know nothing of it; for order across them use a FIFO queue.
            on_reject: on a FIFO queue, ``"skip"`` goes on with the group once a message is set aside;
                ``"block"`` keeps it in the queue and holds its group until it succeeds or is taken away.
            declare: False only looks up what exists and creates nothing.
            tags: cost tags and the like, for the queues.

        Raises:
            NoDriverError: no driver was given or chosen.
            ConfigurationError: an argument is out of bounds, or contradicts what exists.
            QueueNotFoundError, TopicNotFoundError: with ``declare=False``, there is none.
        """
        if not isinstance(event_queue_name, str):
            raise InvalidNameError("queue", event_queue_name, "give its name as text, or its ARN")
        driver = driver or DriverManager.instance().get_driver()
        _check_arguments(driver, max_attempts, visibility_timeout_seconds, wait_seconds)
        _check_choice("on_unhandled", on_unhandled, "acknowledge", "reject")
        _check_choice("on_unavailable", on_unavailable, "retry", "process")
        _check_choice("on_reject", on_reject, "skip", "block")
        _check_choice("filter_scope", filter_scope, "headers", "body")
        if not isinstance(deduplication, (DeduplicationStore, NoDeduplication, type(None))):
            raise ConfigurationError(
                f"deduplication= takes a store, such as MemoryDeduplicationStore(), or None, not {deduplication!r}"
            )
        declaration = QueueDeclaration(
            queue_name=event_queue_name,
            topic_names=topics_to_subscribe,
            dead_letter_queue_name=dead_letter_queue_name,
            max_attempts=max_attempts,
            event_filter=_event_filter(filter_events, filter_scope),
            tags=tags,
            keeps_rejected=on_reject == "block",
        )
        queue = declaration.declare(driver) if declare else declaration.look_up(driver)
        store: DeduplicationStore | None
        if isinstance(deduplication, NoDeduplication):
            store = None
        else:
            store = default_store_of(driver) if deduplication is None else deduplication
        if store is not None and store.keyword_names and on_unavailable == "process":
            raise ConfigurationError(
                f"with on_unavailable='process' listeners run without their store, and {type(store).__name__} is a "
                "part of their work: leave it at 'retry'"
            )
        self._store_keywords = () if store is None else store.keyword_names
        self._serializer = EventSerializer.instance()
        self._subscriptions = Subscriptions()
        self._store_is_up = True
        self.consumed_queue = ConsumedQueue(
            driver,
            queue,
            self._subscriptions,
            self._serializer,
            store=store,
            middleware=tuple(middleware),
            max_attempts=max_attempts,
            backoff=dependable(backoff) if backoff else Backoff(),
            visibility_timeout_seconds=visibility_timeout_seconds,
            wait_seconds=wait_seconds,
            ordered_by=ordered_by,
            on_unhandled=on_unhandled,
            on_unavailable=on_unavailable,
            on_reject=on_reject,
        )

    @property
    def queue(self) -> Queue:
        """The queue as its driver knows it, with its dead-letter queue."""
        return self.consumed_queue.queue

    def subscribe(self, listener: ExchangeListener) -> None:
        """Add a listener, to be run after those that are there.

        Raises:
            ConfigurationError: it is no listener, or asks for something that does not exist.
            DuplicateHandlerError: a listener of this name is there already.
        """
        self._add(subscription_for(listener, self._store_keywords))

    def unsubscribe(self, listener: object) -> None:
        """Take a listener object, or a decorated function, away.

        Raises:
            HandlerNotFoundError: it is not subscribed.
        """
        if not self._subscriptions.remove(listener):
            raise HandlerNotFoundError(f"{listener!r} is not subscribed to queue {self.queue.name}")

    def listener(
        self, *event_types: EventType, name: str | None = None
    ) -> Callable[[ListenerFunction], ListenerFunction]:
        """Subscribe the decorated function for these event types, for all when there are none.

        ``@consumer.listener("ProductAdded")``; the function takes what ``ExchangeListener.process`` may.
        Its ``__qualname__`` is the listener's stable name unless ``name`` gives another.
        """
        if any(callable(one) and not isinstance(one, type) for one in event_types):
            raise ConfigurationError(
                "write @consumer.listener() with parentheses; event types go inside them"
            )

        def subscribe(function: ListenerFunction) -> ListenerFunction:
            self._add(subscription_for_function(function, event_types, name, self._store_keywords))
            return function

        return subscribe

    def consume_event(self, wait_seconds: int | None = None) -> int:
        """Poll once and process what came; return how many deliveries were settled.

        Blocks until messages come, ``wait_seconds`` at most (by default the consumer's), and then until their
        listeners have run and the acknowledgements are sent. Up to ten messages are taken at once, from a
        FIFO queue one. What listeners raise is logged and settled, not raised.

        Raises:
            ConfigurationError: there is no listener.
            DriverError: the broker could not be asked.
            DeduplicationError: the deduplication store could not be asked; the messages were given back, and
                until it is in reach none is received.
        """
        self._subscriptions.require_some(self.queue.name)
        self._subscriptions.require_synchronous()
        work = self.consumed_queue
        if wait_seconds is None:
            wait_seconds = work.wait_seconds
        else:
            check_whole_seconds("wait_seconds", wait_seconds, 0, work.driver.capabilities.max_wait_seconds)
        if work.store is not None and not self._store_is_up:
            # Receiving what can't be processed would only bring it nearer to the dead letters.
            work.store.check()
            self._store_is_up = True
        # On FIFO a failure has to stop the rest of its group, and giving back the followers would count as a
        # receive of each: one at a time, nobody pays for a neighbour.
        limit = 1 if work.queue.is_fifo else work.driver.capabilities.max_receive_batch
        deliveries = work.receive(limit, wait_seconds)
        return self._process(deliveries) if deliveries else 0

    def run(self, *, concurrency: int = 10, grace_seconds: float = 25.0) -> int:
        """Consume until the process is told to stop; the short form of ``Worker(consumer).run()``."""
        # It brings asyncio, half of what importing melange costs otherwise, and publishers have no use for it.
        from melange.consuming.worker import Worker  # noqa: PLC0415

        return Worker(self, concurrency=concurrency, grace_seconds=grace_seconds).run()

    def _add(self, subscription: Subscription) -> None:
        store = self.consumed_queue.store
        if store is not None and store.listeners_are_async not in (None, subscription.is_async):
            raise ConfigurationError(
                f"listener {subscription.name} must {'not ' if subscription.is_async else ''}be `async def`: "
                f"{type(store).__name__} works with {'a synchronous' if subscription.is_async else 'an asynchronous'} "
                "session here"
            )
        for event_class in subscription.event_classes.values():
            self._serializer.check_event_class(event_class)
        self._subscriptions.add(subscription)

    def _process(self, deliveries: Sequence[Delivery]) -> int:
        work = self.consumed_queue
        outcomes: list[tuple[Delivery, Outcome]] = []
        try:
            for delivery in deliveries:
                outcome = work.process(Lease(delivery, work.driver.clock))
                outcomes.append((delivery, outcome))
        except BaseException as error:
            # The store is out of reach, or the process is told to end: what is finished is settled all the
            # same, the rest is given back.
            self._store_is_up = not isinstance(error, DeduplicationError)
            work.settle(outcomes)
            work.release(deliveries[len(outcomes) :])
            raise
        return sum(work.settle(outcomes))


_default_store_lock = threading.Lock()


def default_store_of(driver: MessagingDriver) -> DeduplicationStore:
    """Return the store of consumers that are given none: the driver's, one in memory if it has none yet."""
    with _default_store_lock:
        if driver.deduplication_store is None:
            driver.deduplication_store = MemoryDeduplicationStore()
        return driver.deduplication_store


def _check_arguments(
    driver: MessagingDriver,
    max_attempts: int,
    visibility_timeout_seconds: int,
    wait_seconds: int,
) -> None:
    capabilities = driver.capabilities
    check_whole_seconds(
        "visibility_timeout_seconds", visibility_timeout_seconds, 1, capabilities.max_visibility_seconds
    )
    check_whole_seconds("wait_seconds", wait_seconds, 0, capabilities.max_wait_seconds)
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < 1:
        raise ConfigurationError(f"max_attempts must be a whole number of at least 1, not {max_attempts!r}")


def _check_choice(name: str, value: object, *choices: str) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def _event_filter(
    event_types: Sequence[EventType] | None, scope: Literal["headers", "body"]
) -> EventFilter | None:
    names, _ = resolve_event_types("filter_events", event_types)
    return EventFilter(tuple(sorted(names)), scope) if names else None
