"""Hooks around what publishers, outboxes and consumers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from melange.errors import ConfigurationError, Failure
from melange.messages import Delivery, Message, Queue, Topic

if TYPE_CHECKING:
    from melange.consuming.listener import ListenerCall
    from melange.consuming.outcomes import Outcome
    from melange.consuming.worker import Worker
    from melange.outbox.relay import OutboxRelay

Publish = Callable[[Sequence[Message]], list[Failure[Message]]]
"""Gives messages to the broker and returns those that were not accepted."""


class Middleware:
    """Wraps publishing and consuming. Override the hooks that you need.

    For tracing, metrics, database connections and the like. ``driver.middleware`` applies to everything that publishes
    and consumes through the driver; a consumer's own ``middleware=`` comes inside of it. The first is the outermost. All
    methods are called on the thread that does the work, several at once.

    An exception from a hook is treated as one from what it wraps: a publish fails, a poll is tried again, a delivery or a
    listener counts as failed and is tried again later. Nothing is lost by it: what was received is released, and what
    was decided is carried out.
    """

    def around_publish(
        self, destination: Topic | Queue, messages: Sequence[Message], publish: Publish
    ) -> list[Failure[Message]]:
        """Call ``publish(messages)``, which gives messages to the broker, and return the failed ones.

        Called for each ``publish``, ``publish_batch`` and ``send``, and for each call of an outbox relay. The messages
        may be replaced by others with the same ids. ``publish`` raises what a driver raises when it refuses the whole
        call.
        """
        return publish(messages)

    def prepare(self, destination_name: str, message: Message) -> Message:
        """Return a message that is published later, by another thread or process; perhaps another one with the same id.

        Called when an outbox writes the message. The context in which it is published has no memory of this one, so what
        must travel goes into its headers.
        """
        return message

    def around_poll(self, queue: Queue, poll: Callable[[], Sequence[Delivery]]) -> Sequence[Delivery]:
        """Call ``poll`` once and return the received deliveries, perhaps none after a long wait.

        The received deliveries are processed, with any return value.
        """
        return poll()

    def around_delivery(self, delivery: Delivery, process: Callable[[], Outcome]) -> Outcome:
        """Call ``process``, which runs the listeners, and return its outcome, or another one."""
        return process()

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        """Call ``run(call)``, which runs one listener, and return its outcome, or another one.

        It is called for each run, so not for a message that the listener has finished before. ``run`` turns exceptions
        of the listener into outcomes, which have them as ``error``, and sets the mark of a finished listener.
        """
        return run(call)

    def around_settle(
        self, queue: Queue, outcomes: Sequence[tuple[Delivery, Outcome]], settle: Callable[[], object]
    ) -> None:
        """Call ``settle``, which acknowledges, defers and dead-letters deliveries of one queue.

        If the hook does not call it or raises, this is logged, and the deliveries are settled all the same.
        """
        settle()

    def worker_started(self, worker: Worker) -> None:
        """Get to know a worker that starts, for example to report its health. Called once, before it receives."""

    def relay_started(self, relay: OutboxRelay) -> None:
        """Get to know an outbox relay that starts. Called once, before it publishes."""


Wrapped = TypeVar("Wrapped")


def wrapped(innermost: Callable[[], Wrapped], around: Sequence[Callable[..., Wrapped]]) -> Wrapped:
    """Call ``innermost`` through the hooks, the first outermost, and return its result."""
    call = innermost
    for hook in reversed(around):
        call = partial(hook, call)
    return call()


def publish_through(
    middleware: Sequence[Middleware],
    destination: Topic | Queue,
    messages: Sequence[Message],
    publish: Publish,
) -> list[Failure[Message]]:
    """Publish the messages through the hooks, the first outermost; return the failed ones.

    Raises:
        ConfigurationError: a hook does not return the failed messages.
    """
    for one in reversed(middleware):
        publish = partial(_publish_hooked, one, destination, publish)
    return publish(messages)


def _publish_hooked(
    middleware: Middleware, destination: Topic | Queue, publish: Publish, messages: Sequence[Message]
) -> list[Failure[Message]]:
    failures: object = middleware.around_publish(destination, messages, publish)
    if not isinstance(failures, list):
        raise ConfigurationError(
            f"around_publish of {type(middleware).__name__} returned {type(failures).__name__}: return what publish() "
            "returns. The messages may have been published"
        )
    return failures


def prepared(middleware: Sequence[Middleware], destination_name: str, message: Message) -> Message:
    """Return the message as the hooks prepare it for later publishing, the first outermost.

    Raises:
        ConfigurationError: a hook does not return a message with the same id.
    """
    for one in reversed(middleware):
        result: object = one.prepare(destination_name, message)
        if not isinstance(result, Message) or result.message_id != message.message_id:
            raise ConfigurationError(
                f"prepare of {type(one).__name__} must return the message, or a copy with the same message_id"
            )
        message = result
    return message


def checked_middleware(middleware: object) -> tuple[Middleware, ...]:
    """Return the hooks as a tuple; raise ``ConfigurationError`` if it is not a sequence of them."""
    if not isinstance(middleware, Sequence) or not all(isinstance(one, Middleware) for one in middleware):
        raise ConfigurationError(f"middleware= takes a list of Middleware objects, not {middleware!r}")
    return tuple(middleware)
