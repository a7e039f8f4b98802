"""What a test asks the harness: which events were published, handled, failed or dead-lettered, and what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from melange.callables import qualified_name
from melange.consuming.listener import ExchangeListener
from melange.errors import DecodeError
from melange.events import EventMessage
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.testing.faults import is_meant
from melange.testing.harness_consumer import RunConsumer
from melange.testing.harness_driver import HarnessDriver
from melange.testing.history import History, Run, tree_of

EventT = TypeVar("EventT", bound=EventMessage)
Where = Callable[[Any], object]


class HarnessAssertions:
    """The part of ``Harness`` that looks at what happened. A failed check shows all of it."""

    def __init__(self, driver: HarnessDriver, history: History) -> None:
        self.driver = driver
        self._history = history
        self._consumers: list[RunConsumer] = []

    @overload
    def published(
        self, event_type: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def published(self, event_type: str, *, where: Where | None = ...) -> list[dict[str, Any]]: ...
    def published(self, event_type: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events of this type that the broker accepted, in order; those ``where`` returns True for.

        A class gives its objects, the name of a type gives dicts. An event in an outbox counts when it was relayed.

        Raises:
            AssertionError: there is none; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._published(event_type, where)
        return found or self._fail(f"{_named(event_type)} was not published{_as_wanted(where)}")

    def nothing_published(
        self, event_type: type[EventMessage] | str | None = None, *, where: Where | None = None
    ) -> None:
        """Check that no event, or none of this type, was published; for all types ``where`` receives dicts.

        Raises:
            AssertionError: there is one; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._published(event_type, where)
        if found:
            what = "nothing" if event_type is None else f"no {_named(event_type)}"
            self._fail(f"{what} should have been published{_as_wanted(where)}, and {len(found)} were")

    @overload
    def handled(
        self, listener_or_event: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def handled(
        self,
        listener_or_event: str | ExchangeListener | Callable[..., object],
        *,
        where: Where | None = ...,
    ) -> list[Any]: ...
    def handled(self, listener_or_event: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events that a listener finished, as it received them.

        ``listener_or_event`` is a listener, its class, its name, or the type of its events: a class or a name.

        Raises:
            AssertionError: there is none; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._ran(listener_or_event, where, lambda run: run.has_succeeded)
        return found or self._fail(f"{_named(listener_or_event)} was not handled{_as_wanted(where)}")

    @overload
    def failed(
        self, listener_or_event: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def failed(
        self,
        listener_or_event: str | ExchangeListener | Callable[..., object],
        *,
        where: Where | None = ...,
    ) -> list[Any]: ...
    def failed(self, listener_or_event: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events on which a listener failed, once for each failed run; otherwise as ``handled``."""
        __tracebackhide__ = True
        found = self._ran(listener_or_event, where, lambda run: not run.has_succeeded)
        return found or self._fail(f"{_named(listener_or_event)} did not fail{_as_wanted(where)}")

    def nothing_failed(self) -> None:
        """Check that each run of a listener succeeded, and that nothing was dead-lettered.

        Raises:
            AssertionError: one failed; it shows what happened.
        """
        __tracebackhide__ = True
        failed = sum(not run.has_succeeded for run in self._history.runs)
        if failed or self._dead_letters():
            self._fail(f"{failed} runs of listeners failed, {len(self._dead_letters())} dead letters")

    @overload
    def dead_lettered(
        self, event_type: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def dead_lettered(self, event_type: str, *, where: Where | None = ...) -> list[dict[str, Any]]: ...
    def dead_lettered(self, event_type: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events of this type that were moved to a dead-letter queue; otherwise as ``published``."""
        __tracebackhide__ = True
        found = self._events(self._dead_letters(), event_type, where)
        return found or self._fail(f"{_named(event_type)} was not dead-lettered{_as_wanted(where)}")

    def what_happened(self) -> str:
        """Return the history as text: commands, events and listeners as a tree, then what waits."""
        return "\n".join([tree_of(self._history), *self._history.troubles, *self._waiting()])

    def _published(self, event_type: Any, where: Where | None) -> list[Any]:
        messages = [published.message for published in self._history.published]
        if event_type is None and where is None:
            return messages
        return self._events(messages, event_type, where)

    def _events(self, messages: Iterable[Message], event_type: Any, where: Where | None) -> list[Any]:
        is_class = isinstance(event_type, type)
        name = event_type.event_type_name if is_class else event_type
        serializer = self.driver.serializer
        found = []
        for message in messages:
            try:
                type_name, data = serializer.read(message)
                if name in (None, type_name):
                    found.append(serializer.load(name, data, event_type) if is_class else data)
            except DecodeError:  # malformed on purpose
                continue
        return [event for event in found if where is None or where(event)]

    def _ran(self, which: object, where: Where | None, wanted: Callable[[Run], bool]) -> list[Any]:
        return [
            run.call.event
            for run in self._history.runs
            if wanted(run)
            and is_meant(which, run.call.subscription, run.call.event_type_name)
            and (where is None or where(run.call.event))
        ]

    def _dead_letters(self) -> list[Message]:
        noted = [one.message for one in self._history.dead_lettered]
        queues = {consumer.consumer.queue for consumer in self._consumers}
        targets = {queue.dead_letter_queue for queue in queues if queue.dead_letter_queue is not None}
        moved = [
            message
            for target in sorted(targets, key=lambda queue: queue.name)
            for message in self.driver.list_messages(target)
            if DEAD_LETTER_HEADER not in message.headers  # the broker itself moved it
        ]
        return noted + moved

    def _waiting(self) -> list[str]:
        lines = []
        for queue in {
            consumer.consumer.queue.address: consumer.consumer.queue for consumer in self._consumers
        }.values():
            depth = self.driver.measure_queue(queue)
            if depth.visible:
                lines.append(
                    f"queue {queue.name}: {depth.visible} visible, call settle() or subscribe a listener"
                )
            if depth.in_flight or depth.delayed:
                lines.append(
                    f"queue {queue.name}: {depth.in_flight + depth.delayed} due later, call advance()"
                )
        return lines

    def _fail(self, what: str) -> Any:
        __tracebackhide__ = True
        raise AssertionError(f"{what}. What happened:\n\n{self.what_happened()}\n")


def _named(which: object) -> str:
    if isinstance(which, str):
        return which
    if isinstance(which, type) and issubclass(which, EventMessage):
        return which.event_type_name
    return qualified_name(which)


def _as_wanted(where: Where | None) -> str:
    return "" if where is None else " as `where` wants it"
