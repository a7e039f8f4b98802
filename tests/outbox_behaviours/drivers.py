"""A broker that does not take everything."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from melange.clock import Clock
from melange.drivers.memory import InMemoryDriver
from melange.errors import DriverConnectionError, Failure, InvalidMessageError, MelangeError
from melange.messages import Message, Topic

Judge = Callable[[str, str], MelangeError | None]

REFUSAL = InvalidMessageError("not this one")
OUTAGE = DriverConnectionError("no answer")


def raising(error: BaseException) -> NoReturn:
    raise error


def out_of_order(names: Iterable[str]) -> list[list[str]]:
    """Return the first arrivals of the keys, first letters, whose numbers do not ascend from 0 without a gap."""
    arrivals: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        arrivals.setdefault(name[0], []).append(name)
    return [
        of_key
        for of_key in arrivals.values()
        if [int(name[1:]) for name in of_key] != list(range(len(of_key)))
    ]


class JudgingDriver(InMemoryDriver):
    """Takes what its ``judge`` returns None for, and remembers the order; what the judge raises ends the call.

    The judge is given the topic's name and the event's. ``calls`` are the names of each call, ``accepted`` those
    that were taken, and ``messages`` the messages themselves.
    """

    def __init__(self, judge: Judge | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.judge: Judge = judge or (lambda topic, name: None)
        self.calls: list[list[str]] = []
        self.accepted: list[str] = []
        self.messages: list[Message] = []
        self._recording = threading.Lock()

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        with self._recording:
            names = [json.loads(message.body)["name"] for message in messages]
            self.calls.append(names)
            errors = [self.judge(topic.name, name) for name in names]
            taken = [message for message, error in zip(messages, errors, strict=True) if error is None]
            failures = super().publish(topic, taken)
            self.accepted += [name for name, error in zip(names, errors, strict=True) if error is None]
            self.messages += taken
            return failures + [
                Failure(message, error)
                for message, error in zip(messages, errors, strict=True)
                if error is not None
            ]
