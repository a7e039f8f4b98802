"""The broker of a harness: the in-memory driver, which notes what happens and fails on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.polling import is_polling_thread
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.messages import Delivery, Message, Queue, Topic
from melange.middleware import Middleware
from melange.testing.clock import ManualClock
from melange.testing.faults import Faults
from melange.testing.history import History


class HarnessDriver(InMemoryDriver):
    """The in-memory driver of one ``Harness``. The application may close it; it stays open until the harness ends.

    The polls of a worker that the application started in the background wait until the worker stops, so that nothing
    happens beside ``settle``. Other polls return at once with what is there.
    """

    def __init__(
        self,
        history: History,
        faults: Faults,
        observe: Callable[[ExchangeMessageConsumer], Middleware],
        *,
        clock: ManualClock,
        duplicates: float,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__(clock=clock, duplicates=duplicates, shuffle=shuffle, seed=seed)
        self._history = history
        self._faults = faults
        self._observe = observe
        self._ended_waits: dict[str, int] = {}
        self._waits = threading.Condition()
        self._has_ended = False
        self._own: Sequence[Middleware] = ()
        self._given: Sequence[Middleware] = ()
        self._here = _Here()

    @property
    def middleware(self) -> Sequence[Middleware]:
        """The hooks of the application, and that of the harness for the application's relays."""
        return (*self._own, *self._given)

    @middleware.setter
    def middleware(self, given: Sequence[Middleware]) -> None:
        self._given = tuple(one for one in given if one not in self._own)

    def observe_with(self, hook: Middleware) -> None:
        """Call this hook too, whatever hooks the application chooses."""
        self._own = (hook,)

    def middleware_for(self, consumer: ExchangeMessageConsumer) -> Sequence[Middleware]:
        return (self._observe(consumer), *self.middleware)

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        return self._hand_over(
            topic.name, messages, lambda: super(HarnessDriver, self).publish(topic, messages)
        )

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        def accept() -> list[Failure[Message]]:
            return super(HarnessDriver, self).send(queue, messages, delay_seconds=delay_seconds)

        # A dead letter is not published by the application.
        return accept() if self._here.is_dead_lettering else self._hand_over(queue.name, messages, accept)

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        if is_polling_thread():
            self._wait_for_end(queue)
            return []
        error, _ = self._faults.error_for("receive")
        if error is not None:
            raise error
        # Nothing happens beside the caller, so nothing would arrive during a wait.
        return super().receive(queue, limit, 0, visibility_timeout_seconds=visibility_timeout_seconds)

    def end_waits(self, queue: Queue) -> None:
        super().end_waits(queue)
        with self._waits:
            self._ended_waits[queue.address] = self._ended_waits.get(queue.address, 0) + 1
            self._waits.notify_all()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        error, is_accepted = self._faults.error_for("acknowledge")
        failures = super().acknowledge(deliveries) if is_accepted else []
        if error is not None:
            raise error
        return failures

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        self._here.is_dead_lettering = True
        try:
            super().dead_letter(delivery, note)
        finally:
            self._here.is_dead_lettering = False
        self._history.note_dead_lettered(delivery.message, delivery.queue.name, json.loads(note)["reason"])

    def close(self) -> None:
        """Do nothing: the harness closes it with ``end``."""

    def end(self) -> None:
        """Close the broker, and end the polls of background workers."""
        with self._waits:
            self._has_ended = True
            self._waits.notify_all()
        super().close()

    def _hand_over(
        self, destination: str, messages: Sequence[Message], accept: Callable[[], list[Failure[Message]]]
    ) -> list[Failure[Message]]:
        error, is_accepted = self._faults.error_for("publish")
        failures: list[Failure[Message]] = []
        if is_accepted:
            failures = accept()
            refused = {failure.item.message_id for failure in failures}
            for message in messages:
                if message.message_id not in refused:
                    self._history.note_published(destination, message)
        if error is not None:
            self._history.note_trouble(str(error))
            raise error
        return failures

    def _wait_for_end(self, queue: Queue) -> None:
        with self._waits:
            before = self._ended_waits.get(queue.address, 0)
            self._waits.wait_for(lambda: self._has_ended or self._ended_waits.get(queue.address, 0) != before)


class _Here(threading.local):
    is_dead_lettering = False
