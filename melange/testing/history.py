"""What happened in a test: messages, the listeners that ran on them, what caused them; and all of it as text."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import CodeType
from typing import Any

from melange.callables import qualified_name
from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Outcome
from melange.cqrs import CommandBus
from melange.errors import shortened
from melange.messages import CAUSATION_HEADER, Message
from melange.serialization.masking import masked_body

_MOST_LINES = 60
_LONGEST_EVENT = 120


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


# --- as text ---------------------------------------------------------------------------------------

Branch = Callable[[], Iterator[str]]


def tree_of(history: History) -> str:
    """Return what happened as a tree: commands and the test itself, their messages, the listeners of those."""
    lines = list(_Tree(history).lines())
    if not lines:
        return "nothing was published"
    left_out = len(lines) - _MOST_LINES
    return "\n".join([*lines[:_MOST_LINES], *([f"... and {left_out} more lines"] if left_out > 0 else [])])


class _Tree:
    def __init__(self, history: History) -> None:
        self._history = history
        self._messages: list[Published] = []
        known: set[str] = set()
        for published in history.published:
            # A message that was published twice has one place.
            if published.message.message_id not in known:
                known.add(published.message.message_id)
                self._messages.append(published)

    def lines(self) -> Iterator[str]:
        for published in self._messages:
            if published.cause is None:
                yield from self._of_message(published)
        for command in self._commands(None):
            yield from self._of_command(command)

    def _of_command(self, command: SentCommand) -> Iterator[str]:
        yield f"{_cut(repr(command.command))} (command)"
        yield from _branches(self._effects(command))

    def _of_message(self, published: Published) -> Iterator[str]:
        message = published.message
        yield f"{event_text(message)} to {published.destination}"
        runs = [run for run in self._history.runs if run.message.message_id == message.message_id]
        branches: list[Branch] = [partial(self._of_run, run) for run in runs]
        branches += [
            partial(iter, [f"dead-lettered from {one.queue_name}: {one.reason}"])
            for one in self._history.dead_lettered
            if one.message.message_id == message.message_id
        ]
        yield from _branches(branches or [partial(iter, ["no listener ran"])])

    def _of_run(self, run: Run) -> Iterator[str]:
        call = run.call
        attempt = f", attempt {call.attempt}" if call.attempt > 1 else ""
        yield f"{call.listener_name} on {call.delivery.queue.name}{attempt}: {_described(run.outcome)}"
        yield from _branches(self._effects(run))

    def _effects(self, cause: Cause) -> list[Branch]:
        messages = [published for published in self._messages if published.cause is cause]
        return [
            *(partial(self._of_message, one) for one in messages),
            *(partial(self._of_command, one) for one in self._commands(cause)),
        ]

    def _commands(self, cause: Cause) -> list[SentCommand]:
        commands = (
            command
            for published in self._messages
            for command in _commands_above(published.cause)
            if command.cause is cause
        )
        return list(dict.fromkeys(commands))


def _commands_above(cause: Cause) -> Iterator[SentCommand]:
    while isinstance(cause, SentCommand):
        yield cause
        cause = cause.cause


def _branches(branches: Sequence[Branch]) -> Iterator[str]:
    for number, branch in enumerate(branches, 1):
        is_last = number == len(branches)
        for place, line in enumerate(branch()):
            if place == 0:
                yield f"{'└─' if is_last else '├─'} {line}"
            else:
                yield f"{'  ' if is_last else '│ '} {line}"


def event_text(message: Message) -> str:
    """Return the type and the fields of the event, shortened and without sensitive values."""
    name = message.event_type_name or "an event"
    body = masked_body(message.body, message.event_type_name)
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return f"{name} {shortened(body, _LONGEST_EVENT)}"
    shown = {key: value for key, value in fields.items() if key not in ("event_type_name", "occurred_on")}
    text = ", ".join(f"{key}={value!r}" for key, value in shown.items())
    return f"{name}({_cut(text)})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_EVENT else f"{text[:_LONGEST_EVENT]}..."


def _described(outcome: Outcome | None) -> str:
    match outcome:
        case None:
            return "still running"
        case Acknowledge():
            return "handled"
        case Defer():
            error = "" if outcome.error is None else f": {_described_error(outcome.error)}"
            return f"failed, retried after {outcome.delay_seconds:.3g} s{error}"
        case DeadLetter():
            return f"rejected: {outcome.reason}"
        case _:
            return "lost its lease"


def _described_error(error: BaseException) -> str:
    return f"{qualified_name(type(error)).removeprefix('builtins.')}: {error}"
