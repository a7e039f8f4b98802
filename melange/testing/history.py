"""What happened in a test: messages, the listeners that ran on them, and what caused them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from melange.callables import qualified_name
from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Outcome
from melange.cqrs import CommandBus
from melange.messages import CAUSATION_HEADER, Message


@dataclass(eq=False)
class Run:
    """One run of a listener; ``outcome`` is None while it runs."""

    call: ListenerCall
    outcome: Outcome | None = None

    @property
    def has_succeeded(self) -> bool:
        """True if the listener returned, and its work is marked."""
        return isinstance(self.outcome, Acknowledge)

    @property
    def message(self) -> Message:
        """The message of the event."""
        return self.call.delivery.message


@dataclass(eq=False)
class SentCommand:
    """A command during which a message was published."""

    command: object
    cause: Cause


Cause = Run | SentCommand | None
"""What published a message: a listener, a command, or the test itself."""


@dataclass(eq=False)
class Published:
    """A message that the broker accepted, for a topic or a queue."""

    message: Message
    destination: str
    cause: Cause


@dataclass(frozen=True)
class DeadLettered:
    """A message in a dead-letter queue."""

    message: Message
    queue_name: str
    reason: str


@dataclass
class History:
    """Everything that happened, in order. Thread-safe."""

    published: list[Published] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dead_lettered: list[DeadLettered] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Faults and outages, in words."""
    _causes: dict[str, Cause] = field(default_factory=dict)
    _commands: dict[int, SentCommand] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def note_written(self, message_id: str) -> None:
        """Remember what writes this message to an outbox: the relay that publishes it later does not know."""
        with self._lock:
            self._causes.setdefault(message_id, self.current_cause())

    def note_published(self, destination: str, message: Message) -> None:
        """Add a message that was accepted."""
        with self._lock:
            if message.message_id in self._causes:
                cause = self._causes[message.message_id]
            else:
                cause = self.current_cause() or self._named_cause(message.headers)
            self.published.append(Published(message, destination, cause))

    def begin_run(self, call: ListenerCall) -> Run:
        """Add a run that begins."""
        run = Run(call)
        with self._lock:
            self.runs.append(run)
        return run

    def note_dead_lettered(self, message: Message, queue_name: str, reason: str) -> None:
        """Add a message that was dead-lettered from the queue."""
        with self._lock:
            self.dead_lettered.append(DeadLettered(message, queue_name, reason))

    def note_trouble(self, text: str) -> None:
        """Add a fault, unless it is the last one that was added."""
        with self._lock:
            if self.troubles[-1:] != [text]:
                self.troubles.append(text)

    def current_cause(self) -> Cause:
        """Return the listener or command that runs in the calling thread or task; None for the test itself."""
        cause: Cause = current_run.get()
        with self._lock:
            for command in reversed(_commands_at_work()):
                known = self._commands.get(id(command))
                if known is None:
                    known = self._commands[id(command)] = SentCommand(command, cause)
                cause = known
        return cause

    def _named_cause(self, headers: Mapping[str, str]) -> Cause:
        message_id = headers.get(CAUSATION_HEADER)
        runs = [run for run in self.runs if run.message.message_id == message_id]
        return runs[-1] if runs else None


current_run: ContextVar[Run | None] = ContextVar("melange.testing.current_run", default=None)

_SENDS: frozenset[CodeType] = frozenset((CommandBus.send.__code__, CommandBus.send_async.__code__))


def _commands_at_work() -> list[Any]:
    """Return the commands that are being handled in the calling thread or task, the innermost first.

    Read from the stack, so that command buses have no costs for tests.
    """
    commands = []
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in _SENDS:
            commands.append(frame.f_locals["command"])
        frame = frame.f_back
    return commands


def described(outcome: Outcome | None) -> str:
    """Return an outcome of a listener in words."""
    match outcome:
        case None:
            return "still running"
        case Acknowledge():
            return "handled"
        case Defer():
            error = "" if outcome.error is None else f": {_described(outcome.error)}"
            return f"failed, retried after {outcome.delay_seconds:.3g} s{error}"
        case DeadLetter():
            return f"rejected: {outcome.reason}"
        case _:
            return "lost its lease"


def _described(error: BaseException) -> str:
    return f"{qualified_name(type(error)).removeprefix('builtins.')}: {error}"
