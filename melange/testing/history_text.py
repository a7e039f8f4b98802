"""The history of a test as text: a small tree of causes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from melange.errors import shortened
from melange.messages import Message
from melange.serialization.masking import masked_body
from melange.testing.history import Cause, History, Published, Run, SentCommand, described

Branch = Callable[[], Iterator[str]]

_MOST_LINES = 60
_LONGEST_EVENT = 120


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
        yield f"{call.listener_name} on {call.delivery.queue.name}{attempt}: {described(run.outcome)}"
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
