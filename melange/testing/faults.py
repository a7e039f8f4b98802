"""Faults on request: calls that fail, listeners that take long, a store that is unavailable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from melange.consuming.listener import Subscription
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.errors import ConfigurationError, DeduplicationError, DriverConnectionError
from melange.events import EventMessage


@dataclass
class Faults:
    """The faults of a harness. Each method plans one; calls are counted from then on. Thread-safe."""

    _planned: dict[str, list[bool]] = field(default_factory=dict)
    _slow: list[tuple[object, float]] = field(default_factory=list)
    _store_is_available: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_publish_fails(self, *, times: int = 1, is_accepted: bool = False) -> None:
        """Let the next calls that publish or send raise ``DriverConnectionError``.

        With ``is_accepted`` the broker has the messages all the same, and only its answer was lost. A publisher that
        tries again then publishes twice.
        """
        self._plan("publish", times, is_accepted)

    def next_receive_fails(self, *, times: int = 1) -> None:
        """Let the next polls raise ``DriverConnectionError``; nothing is received by them."""
        self._plan("receive", times, False)

    def next_acknowledge_fails(self, *, times: int = 1, is_accepted: bool = False) -> None:
        """Let the next acknowledgements raise ``DriverConnectionError``.

        The message comes back after its visibility timeout, though its listeners have finished. With ``is_accepted`` the
        message is gone and only the answer was lost.
        """
        self._plan("acknowledge", times, is_accepted)

    def listener_takes(self, listener_or_event: object, *, seconds: float) -> None:
        """Let the clock advance by ``seconds`` in each run of these listeners, before they are called.

        A run longer than its ``timeout_seconds`` fails with ``TimeLimitExceeded``, and its listener is not called. The
        lease is renewed meanwhile, as a worker does. ``listener_or_event`` is a listener, its name, or an event type. 0
        seconds ends the fault.
        """
        if not seconds >= 0:
            raise ConfigurationError(f"seconds must be 0 or more, not {seconds!r}")
        with self._lock:
            self._slow = [one for one in self._slow if one[0] != listener_or_event]
            if seconds:
                self._slow.append((listener_or_event, seconds))

    @contextmanager
    def store_is_unavailable(self) -> Iterator[None]:
        """Let the deduplication stores of all consumers refuse every call in a ``with`` block, as if Redis were down."""
        self._store_is_available = False
        try:
            yield
        finally:
            self._store_is_available = True

    # --- for the harness ---------------------------------------------------------------------------

    def error_for(self, call: str) -> tuple[DriverConnectionError | None, bool]:
        """Return the error planned for this call, and True if the broker carries it out all the same."""
        with self._lock:
            planned = self._planned.get(call)
            if not planned:
                return None, True
            is_accepted = planned.pop(0)
        lost = ": the answer was lost" if is_accepted else ""
        return DriverConnectionError(f"the test lets this {call} fail{lost}"), is_accepted

    def seconds_of(self, subscription: Subscription, event_type_name: str) -> float:
        """Return the seconds that a run of the listener takes."""
        return sum(seconds for which, seconds in self._slow if is_meant(which, subscription, event_type_name))

    def store_for(self, store: DeduplicationStore | None) -> DeduplicationStore | None:
        """Return the store, or one that is unavailable."""
        return store if store is None or self._store_is_available else _UnavailableStore(store)

    def _plan(self, call: str, times: int, is_accepted: bool) -> None:
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ConfigurationError(f"times must be a whole number of at least 1, not {times!r}")
        with self._lock:
            self._planned.setdefault(call, []).extend([is_accepted] * times)


def is_meant(which: object, subscription: Subscription, event_type_name: str) -> bool:
    """Return True if a listener, its class, its name, or the type of its event is ``which``."""
    listener = subscription.listener
    if isinstance(which, type):
        is_event = issubclass(which, EventMessage) and which.event_type_name == event_type_name
        return is_event or isinstance(listener, which)
    if isinstance(which, str):
        return which in (subscription.name, event_type_name)
    return bool(which == listener)


class _UnavailableStore(DeduplicationStore):
    """A store that refuses every call."""

    def __init__(self, store: DeduplicationStore) -> None:
        self.keyword_names = store.keyword_names
        self.listeners_are_async = store.listeners_are_async
        self.outlives_process = store.outlives_process

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        raise self._error()

    def complete(self, claimed: Claimed) -> bool:
        raise self._error()

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        raise self._error()

    def forget_attempts(self, key: DeduplicationKey) -> None:
        raise self._error()

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        raise self._error()

    def check(self) -> None:
        raise self._error()

    def _error(self) -> DeduplicationError:
        return DeduplicationError("the test lets the deduplication store be unavailable")
