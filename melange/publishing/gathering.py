"""Gathers messages that are published at about the same time into batches: one call to the broker for up to ten callers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from melange.drivers.base import MessagingDriver
from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import ConfigurationError, DriverConnectionError, Failure, InvalidMessageError, is_number
from melange.messages import Message

IDLE_SECONDS = 2.0
"""A thread that has nothing to send ends after this time."""

PATIENCE_SECONDS = 5.0
"""What has waited longer than this when a call fails with a connection error fails with it: during an outage the last of a
thousand callers would otherwise wait for all calls before its own."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """How a publisher gathers messages.

    Args:
        linger_seconds: how long a message waits for others, until there are ten. 0 sends at once what is there.
        max_calls: how many calls to the broker run at once, each on a thread of the publisher.

    Raises:
        ConfigurationError: a number is out of bounds.
    """

    linger_seconds: float = 0.005
    max_calls: int = 4

    def __post_init__(self) -> None:
        if not is_number(self.linger_seconds) or not 0 <= self.linger_seconds <= 10:
            raise ConfigurationError(f"linger_seconds must be 0 to 10, not {self.linger_seconds!r}")
        is_whole = isinstance(self.max_calls, int) and not isinstance(self.max_calls, bool)
        if not is_whole or not 1 <= self.max_calls <= 100:
            raise ConfigurationError(
                f"max_calls must be a whole number from 1 to 100, not {self.max_calls!r}"
            )


Answer = list[Failure[Message]] | BaseException
"""The failed messages of a caller, or what was raised for the whole call."""

Deliver = Callable[[Sequence[tuple["Waiting", Answer]]], None]
"""Gives several callers their answers. Called on a thread of the gatherer; must not raise or block."""

Publish = Callable[[MessagingDriver, Sequence[Message], int], list[Failure[Message]]]
"""Publishes messages with a driver and a delay in seconds, and returns the failed ones."""


class Waiting:
    """The messages of one caller, until there is an answer. Several of one caller are published in a call of their own."""

    __slots__ = ("delay_seconds", "deliver", "driver", "groups", "messages", "ready_at")

    def __init__(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int, deliver: Deliver
    ) -> None:
        self.driver = driver
        self.messages = messages
        self.delay_seconds = delay_seconds
        self.deliver = deliver
        self.groups = {message.message_group_id for message in messages}
        self.ready_at = 0.0

    def may_join(self, other: Waiting) -> bool:
        """Return True if both can be published in one call."""
        is_alike = self.driver is other.driver and self.delay_seconds == other.delay_seconds
        return is_alike and len(self.messages) == len(other.messages) == 1


class Gatherer:
    """Publishes what callers hand over, in as few calls as it can. Thread-safe, and usable in a forked process.

    Its threads are daemons, start when there is something to send, and end when there is nothing. On a FIFO destination the
    messages of a group leave in the order in which they were handed over: a group has one call at a time.
    """

    def __init__(self, publish: Publish, options: Gathering, *, is_fifo: bool) -> None:
        self._publish = publish
        self._options = options
        self._is_fifo = is_fifo
        self._reset()

        _gatherers.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._busy_groups: set[str | None] = set()
        self._threads = self._idle = self._undated = 0

    def add(self, waiting: Waiting) -> None:
        """Hand messages over, to be published soon. Returns at once.

        Raises:
            RuntimeError: the system cannot start a thread; nothing is published.
        """
        with self._changed:
            linger_seconds = self._options.linger_seconds if len(waiting.messages) == 1 else 0.0
            waiting.ready_at = time.monotonic() + linger_seconds
            self._waiting.append(waiting)
            if self._idle == 0 and self._threads < self._options.max_calls:
                try:
                    threading.Thread(target=self._work, name="melange-gathering", daemon=True).start()
                except RuntimeError:
                    if self._threads == 0:
                        self._waiting.remove(waiting)
                        raise
                else:
                    self._threads += 1
            # A thread that lingers wakes by itself, or when a batch is complete.
            elif self._undated or len(self._waiting) % MAX_BATCH == 0:
                self._changed.notify()

    def withdraw(self, waiting: Waiting) -> bool:
        """Take back what was handed over; return False if it is being published, or was."""
        with self._changed:
            try:
                self._waiting.remove(waiting)
            except ValueError:
                return False
            self._changed.notify_all()  # a thread may linger for it
            return True

    def _work(self) -> None:
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        """Publish the next batch; return False if there was none for long."""
        batch = self._next_batch()
        if not batch:
            return False
        try:
            self._publish_batch(batch)
        finally:
            if self._is_fifo:
                with self._changed:
                    self._busy_groups.difference_update(*(one.groups for one in batch))
                    self._changed.notify_all()
        return True

    def _next_batch(self) -> list[Waiting]:
        """Wait for something to send and return it, or ``[]`` when this thread has been idle for long."""
        with self._changed:
            while True:
                batch, ready_at = self._choose()
                if batch:
                    taken = set(batch)
                    self._waiting = deque([one for one in self._waiting if one not in taken])
                    if self._is_fifo:
                        self._busy_groups.update(*(one.groups for one in batch))
                    return batch
                is_undated = ready_at is None
                self._idle += 1
                self._undated += is_undated
                seconds = IDLE_SECONDS if ready_at is None else max(0.0, ready_at - time.monotonic())
                woken = self._changed.wait(seconds)
                self._idle -= 1
                self._undated -= is_undated
                if not woken and is_undated and not self._waiting:
                    self._threads -= 1
                    return []

    def _choose(self) -> tuple[list[Waiting], float | None]:
        """Return what to publish in one call now, or the time at which there will be something."""
        busy = set(self._busy_groups)
        batch: list[Waiting] = []
        for one in self._waiting:
            if self._is_fifo and one.groups & busy:
                busy |= one.groups  # nothing behind it may overtake it
            elif not batch or one.may_join(batch[0]):
                batch.append(one)
                if len(batch) == MAX_BATCH or len(one.messages) > 1:
                    return batch, None
            elif self._is_fifo:
                busy |= one.groups
        if batch and batch[0].ready_at > time.monotonic():
            return [], batch[0].ready_at
        return batch, None

    def _take_overdue(self) -> list[Waiting]:
        """Return what has waited for longer than it is worth during an outage; it is waiting no more."""
        with self._changed:
            overdue_since = time.monotonic() - PATIENCE_SECONDS
            overdue = [one for one in self._waiting if one.ready_at <= overdue_since]
            taken = set(overdue)
            self._waiting = deque([one for one in self._waiting if one not in taken])
            return overdue

    def _publish_batch(self, batch: Sequence[Waiting]) -> None:
        messages = [message for one in batch for message in one.messages]
        answers: list[tuple[Waiting, Answer]]
        try:
            failures = self._publish(batch[0].driver, messages, batch[0].delay_seconds)
        except InvalidMessageError as error:
            if len(batch) > 1:  # one of them makes the broker refuse all
                for one in batch:
                    self._publish_batch([one])
                return
            answers = [(batch[0], error)]
        except BaseException as error:
            answers = [(one, error) for one in batch]
            if isinstance(error, DriverConnectionError):
                answers += [(one, _not_sent(error)) for one in self._take_overdue()]
        else:
            if failures:
                failed = {failure.item.message_id: failure for failure in failures}
                answers = [
                    (one, [failed[m.message_id] for m in one.messages if m.message_id in failed])
                    for one in batch
                ]
            else:
                answers = [(one, []) for one in batch]
        by_caller: dict[Deliver, list[tuple[Waiting, Answer]]] = {}
        for one, answer in answers:
            by_caller.setdefault(one.deliver, []).append((one, answer))
        for deliver, of_caller in by_caller.items():
            deliver(of_caller)


def _not_sent(error: DriverConnectionError) -> DriverConnectionError:
    return DriverConnectionError(f"not sent, because a call before it failed: {error}")


_gatherers: WeakSet[Gatherer] = WeakSet()


def _forget_threads() -> None:
    # Threads do not survive a fork, and what waited belongs to the parent.
    for gatherer in list(_gatherers):
        gatherer._reset()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_forget_threads)


class _Blocked(Waiting):
    """A caller that waits in its thread."""

    __slots__ = ("answer", "answered")

    def __init__(self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int) -> None:
        super().__init__(driver, messages, delay_seconds, _wake)
        self.answer: Answer = []
        self.answered = threading.Event()


def _wake(answers: Sequence[tuple[Waiting, Answer]]) -> None:
    for waiting, answer in answers:
        assert isinstance(waiting, _Blocked)
        waiting.answer = answer
        waiting.answered.set()


def hand_over(
    gatherer: Gatherer, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int
) -> list[Failure[Message]]:
    """Publish messages together with those of other threads; block until then, and return the failed ones."""
    waiting = _Blocked(driver, messages, delay_seconds)
    gatherer.add(waiting)
    try:
        waiting.answered.wait()
    except BaseException:  # KeyboardInterrupt
        gatherer.withdraw(waiting)
        raise
    if isinstance(waiting.answer, BaseException):
        raise waiting.answer
    return waiting.answer
