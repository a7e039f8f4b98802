"""The consumer: one queue, its listeners, one poll at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

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
from melange.consuming.middleware import Middleware, checked_outcome, wrapped
from melange.consuming.once import OncePerMessage
from melange.consuming.outcomes import Backoff, Outcome
from melange.consuming.processor import DeliveryProcessor, RunCoroutine
from melange.consuming.settling import Settlement, Settler
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication import DeduplicationStore, MemoryDeduplicationStore
from melange.drivers.base import UNCHANGED, EventFilter, MessagingDriver, Queue, Unchanged
from melange.drivers.limits import check_whole_seconds
from melange.drivers.registry import DriverManager
from melange.errors import (
    ConfigurationError,
    DecodeError,
    DeduplicationError,
    HandlerNotFoundError,
    InvalidNameError,
)
from melange.messages import Delivery
from melange.serialization import EventSerializer

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
        dead_letter_queue_name: str | None | Unchanged = UNCHANGED,
        max_attempts: int = 5,
        visibility_timeout_seconds: int = 30,
        wait_seconds: int = 20,
        on_unhandled: Literal["acknowledge", "reject"] = "acknowledge",
        backoff: Callable[[int], float] | None = None,
        deduplication: DeduplicationStore | None | Unchanged = UNCHANGED,
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
        self._driver = driver or DriverManager.instance().get_driver()
        _check_arguments(self._driver, max_attempts, visibility_timeout_seconds, wait_seconds)
        _check_choice("on_unhandled", on_unhandled, "acknowledge", "reject")
        _check_choice("on_unavailable", on_unavailable, "retry", "process")
        _check_choice("on_reject", on_reject, "skip", "block")
        _check_choice("filter_scope", filter_scope, "headers", "body")
        declaration = QueueDeclaration(
            queue_name=event_queue_name,
            topic_names=topics_to_subscribe,
            dead_letter_queue_name=dead_letter_queue_name,
            max_attempts=max_attempts,
            event_filter=_event_filter(filter_events, filter_scope),
            tags=tags,
        )
        self._queue = declaration.declare(self._driver) if declare else declaration.look_up(self._driver)
        self.visibility_timeout_seconds = visibility_timeout_seconds
        self.wait_seconds = wait_seconds
        self.deduplication = (
            MemoryDeduplicationStore.shared() if isinstance(deduplication, Unchanged) else deduplication
        )
        self._store_is_up = True
        self._ordered_by = ordered_by
        self._subscriptions = Subscriptions()
        self._serializer = EventSerializer.instance()
        backoff = backoff or Backoff()
        self._settler = Settler(
            self._driver, self._queue, backoff, keeps_rejected=on_reject == "block" and self._queue.is_fifo
        )
        self._middleware = tuple(middleware)
        self._processor = DeliveryProcessor(
            self._subscriptions,
            self._serializer,
            middleware=self._middleware
            if self.deduplication is None
            else (*self._middleware, OncePerMessage(self.deduplication, backoff, on_unavailable)),
            max_attempts=max_attempts,
            backoff=backoff,
            on_unhandled=on_unhandled,
        )

    @property
    def driver(self) -> MessagingDriver:
        """The driver it was built on."""
        return self._driver

    @property
    def queue(self) -> Queue:
        """The queue as its driver knows it, with its dead-letter queue."""
        return self._queue

    def subscribe(self, listener: ExchangeListener) -> None:
        """Add a listener, to be run after those that are there.

        Raises:
            ConfigurationError: it is no listener, or asks for something that does not exist.
            DuplicateHandlerError: a listener of this name is there already.
        """
        self._add(subscription_for(listener))

    def unsubscribe(self, listener: object) -> None:
        """Take a listener object, or a decorated function, away.

        Raises:
            HandlerNotFoundError: it is not subscribed.
        """
        if not self._subscriptions.remove(listener):
            raise HandlerNotFoundError(f"{listener!r} is not subscribed to queue {self._queue.name}")

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
            self._add(subscription_for_function(function, event_types, name))
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
        self._require_listener()
        self._subscriptions.require_synchronous()
        if wait_seconds is None:
            wait_seconds = self.wait_seconds
        else:
            check_whole_seconds("wait_seconds", wait_seconds, 0, self._driver.capabilities.max_wait_seconds)
        if self.deduplication is not None and not self._store_is_up:
            # Receiving what can't be processed would only bring it nearer to the dead letters.
            self.deduplication.check()
            self._store_is_up = True
        # On FIFO a failure has to stop the rest of its group, and giving back the followers would count as a
        # receive of each: one at a time, nobody pays for a neighbour.
        limit = 1 if self._queue.is_fifo else self._driver.capabilities.max_receive_batch
        deliveries = self.receive(limit, wait_seconds)
        return self._process(deliveries) if deliveries else 0

    def run(self, *, concurrency: int = 10, grace_seconds: float = 25.0) -> int:
        """Consume until the process is told to stop; the short form of ``Worker(consumer).run()``."""
        from melange.consuming.worker import Worker  # noqa: PLC0415 - the worker knows consumers, not the reverse

        return Worker(self, concurrency=concurrency, grace_seconds=grace_seconds).run()

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Run asynchronous listeners with ``run_coroutine``; the worker calls this before it starts."""
        self._require_listener()
        self._processor.run_coroutine = run_coroutine

    def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Take at most ``limit`` deliveries from the queue, for a loop of one's own; see ``consume_event``.

        Each has to be processed and settled, or released, before its deadline.
        """
        # Deadlines count from before the request, the only moment that is known not to be too late: a process
        # may be held up just when the answer comes. The wait must not eat the time that is left for the work.
        longest = self._driver.capabilities.max_visibility_seconds
        visibility_timeout_seconds = min(self.visibility_timeout_seconds + wait_seconds, longest)
        received: list[Delivery] = []

        def poll() -> list[Delivery]:
            received[:] = self._driver.receive(
                self._queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
            )
            return received

        try:
            wrapped(poll, [partial(one.around_poll, self._queue) for one in self._middleware])
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

    def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> Settlement:
        """Carry outcomes out: acknowledge, defer, or set aside. What the broker does not take is logged."""
        return self._settler.settle(outcomes)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back deliveries that nobody has worked on: visible to others at once."""
        self._settler.release(deliveries)

    def lane_of(self, delivery: Delivery) -> Hashable | None:
        """Return what the delivery must be kept in order with, None for nothing."""
        if self._queue.is_fifo:
            return delivery.message.message_group_id
        if self._ordered_by is None:
            return None
        try:
            _, data = self._serializer.read(delivery.message)
        except DecodeError:
            return None
        value = data.get(self._ordered_by)
        return value if isinstance(value, (str, int)) else None

    def _add(self, subscription: Subscription) -> None:
        for event_class in subscription.event_classes.values():
            self._serializer.check_event_class(event_class)
        self._subscriptions.add(subscription)

    def _require_listener(self) -> None:
        if not self._subscriptions:
            raise ConfigurationError(
                f"nothing listens on queue {self._queue.name}: subscribe a listener first, or messages would be "
                "acknowledged that nobody has seen"
            )

    def _process(self, deliveries: Sequence[Delivery]) -> int:
        outcomes: list[tuple[Delivery, Outcome]] = []
        try:
            for delivery in deliveries:
                outcome = self.process(Lease(delivery, self._driver.clock))
                outcomes.append((delivery, outcome))
        except BaseException as error:
            # The store is out of reach, or the process is told to end: what is finished is settled all the
            # same, the rest is given back.
            self._store_is_up = not isinstance(error, DeduplicationError)
            self._settler.settle(outcomes)
            self._settler.release(deliveries[len(outcomes) :])
            raise
        return sum(self._settler.settle(outcomes))


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
