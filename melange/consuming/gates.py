"""Gates decide how many deliveries a consumer may receive: rate limits, circuit breakers, pauses."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, Lock
from typing import Literal

from melange.clock import Clock
from melange.errors import ConfigurationError
from melange.messages import Queue
from melange.middleware import Middleware

FlowState = Literal["open", "paused", "limited", "broken", "probing"]


class Gate:
    """Asked before each poll. What it does not allow is not received, so no receive and no attempt is used up.

    All methods are called on threads that poll, and must not block for long. A gate belongs to one consumer.
    """

    def bind(self, queue: Queue, clock: Clock) -> None:
        """Get to know the consumer's queue and clock; called once."""

    @property
    def hooks(self) -> Sequence[Middleware]:
        """Hooks through which the gate learns what becomes of messages; asked once, after ``bind``."""
        return ()

    @property
    def state(self) -> FlowState:
        """What the gate does now, for the health of a worker."""
        return "open"

    def allowance(self) -> int | None:
        """Return the most deliveries of the next poll; 0 for no poll, None for no limit.

        What it raises counts as a failed poll, which is tried again.
        """
        return None

    def received(self, count: int) -> None:
        """Note that an allowed poll has returned, with this number of deliveries.

        What it raises counts as a failed poll too, and the deliveries are released.
        """


class Gates:
    """The gates of one consumer, and its own pause. Thread-safe if they are.

    ``is_open`` is True while nothing has to be asked: there are no gates, and no pause. ``ask_in_turn`` is True if there are
    gates: what one poll has received must be known before the next one is allowed.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._gates = tuple(gates)
        self._is_paused = Event()
        self._pausing = Lock()
        self.ask_in_turn = bool(gates)
        self.is_open = not gates

    @property
    def state(self) -> FlowState:
        """The state of the first gate that is not open."""
        if self._is_paused.is_set():
            return "paused"
        return next((gate.state for gate in self._gates if gate.state != "open"), "open")

    def pause(self) -> None:
        """Allow nothing until ``resume``."""
        with self._pausing:
            self._is_paused.set()
            self.is_open = False

    def resume(self) -> None:
        """End the pause."""
        with self._pausing:
            self._is_paused.clear()
            self.is_open = not self.ask_in_turn

    def allowed(self, limit: int) -> int:
        """Return the most deliveries of the next poll, at most ``limit``."""
        if self._is_paused.is_set():
            return 0
        for gate in self._gates:
            allowance = gate.allowance()
            if allowance is not None and allowance < limit:
                limit = allowance
                if limit <= 0:
                    return 0
        return limit

    def received(self, count: int) -> None:
        """Tell the gates that an allowed poll has returned."""
        for gate in self._gates:
            gate.received(count)


def checked_gates(flow: object, queue: Queue, clock: Clock) -> Gates:
    """Return the gates, bound to the consumer's queue; raise ``ConfigurationError`` if these are none."""
    if not isinstance(flow, Sequence) or not all(isinstance(one, Gate) for one in flow):
        raise ConfigurationError(f"flow= takes a list of gates, such as [RateLimit(50)], not {flow!r}")
    for gate in flow:
        gate.bind(queue, clock)
    return Gates(flow)
