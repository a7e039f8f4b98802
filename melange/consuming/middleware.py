"""Hooks around a consumer's polls, deliveries and listeners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from melange.consuming.outcomes import Outcome
from melange.consuming.subscriptions import ListenerCall
from melange.errors import ConfigurationError
from melange.messages import Delivery, Queue


class Middleware:
    """Wraps polls, deliveries and listeners. Override the hooks that you need.

    For tracing, metrics, database connections and the like. The first of a consumer's middleware is the outermost. All
    methods are called on the worker's threads, several at once. An exception from a hook is treated as one from what it
    wraps: a poll is tried again, a delivery or a listener counts as failed and is tried again later. Nothing is lost by
    it: what was received is released.
    """

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
        of the listener into outcomes, and sets the mark of a finished listener.
        """
        return run(call)


Wrapped = TypeVar("Wrapped")


def wrapped(innermost: Callable[[], Wrapped], around: Sequence[Callable[..., Wrapped]]) -> Wrapped:
    """Call ``innermost`` through the hooks, the first outermost, and return its result."""
    call = innermost
    for hook in reversed(around):
        call = partial(hook, call)
    return call()


def checked_outcome(outcome: object) -> Outcome:
    """Return what a hook returned; raise ``ConfigurationError`` if that is not an outcome."""
    if not isinstance(outcome, Outcome):
        raise ConfigurationError(
            f"middleware returned {type(outcome).__name__}: return the outcome of what it wraps"
        )
    return outcome
