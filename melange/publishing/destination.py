"""Where messages go: a topic or queue that is looked up once, and what became of each message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import are_collected
from melange.drivers.registry import DriverManager, require_driver
from melange.errors import (
    ConfigurationError,
    DriverConnectionError,
    Failure,
    InvalidNameError,
    PublishError,
)
from melange.messages import (
    Message,
    Queue,
    Topic,
)

DestinationT = TypeVar("DestinationT", Topic, Queue)


class _Lookup:
    """A look-up that a thread does for all that need the same at that time; ``error`` is what it raised."""

    error: BaseException | None = None

    def __init__(self, driver: MessagingDriver) -> None:
        self.driver = driver
        self.has_ended = threading.Event()


class Destination(Generic[DestinationT]):
    """A topic or queue, looked up once for the driver in use, and again if the driver changes or it was deleted.

    ``find`` may create it. ``find_again`` must not: a topic that was deleted would come back without subscriptions, and
    everything published to it would be lost.
    """

    def __init__(
        self,
        driver: MessagingDriver | None,
        *,
        find: Callable[[MessagingDriver], DestinationT],
        find_again: Callable[[MessagingDriver], DestinationT],
    ) -> None:
        require_driver(driver)
        self._driver = driver
        self._find: Callable[[MessagingDriver], DestinationT] = find
        self._find_again: Callable[[MessagingDriver], DestinationT] = find_again
        self._lock = threading.Lock()
        self._lookup: _Lookup | None = None
        self._found: tuple[MessagingDriver, DestinationT] | None = None
        self._gone_on: MessagingDriver | None = None

    @property
    def driver(self) -> MessagingDriver:
        return self._driver or DriverManager.instance().get_driver()

    def on(self, driver: MessagingDriver) -> DestinationT:
        found = self._found
        if found is not None and found[0] is driver:
            return found[1]
        if are_collected():
            raise ConfigurationError(
                "nothing can be published while the declarations of the program are collected: name a function that only "
                "creates publishers and consumers"
            )
        while True:
            with self._lock:
                if self._found is not None and self._found[0] is driver:
                    return self._found[1]
                running = self._lookup
                if running is None or running.driver is not driver:
                    lookup = self._lookup = _Lookup(driver)
                    break
            # Those that wait share its result: one after the other, each would wait for all before it in an outage.
            running.has_ended.wait()
            if isinstance(running.error, Exception):
                raise running.error
        return self._look_up(lookup)

    def _look_up(self, lookup: _Lookup) -> DestinationT:
        driver = lookup.driver
        find = self._find_again if self._gone_on is driver else self._find
        try:
            destination = find(driver)
            self._found = (driver, destination)
            return destination
        except BaseException as error:
            lookup.error = error
            raise
        finally:
            if self._lookup is lookup:
                self._lookup = None
            lookup.has_ended.set()

    def is_gone(self, driver: MessagingDriver) -> None:
        self._found, self._gone_on = None, driver


def require_text(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidNameError(kind, name, "give its name as text, or its ARN")


def accepted_ids(
    messages: Sequence[Message], deliver: Callable[[Sequence[Message]], list[Failure[Message]]]
) -> list[str]:
    """Send the messages and return their ids, or raise one ``PublishError`` with the failed ones."""
    if not messages:
        return []
    try:
        failures = deliver(messages)
    except DriverConnectionError as error:
        failures = [Failure(message, error) for message in messages]
    return ids_of(messages, failures)


def ids_of(messages: Sequence[Message], failures: list[Failure[Message]]) -> list[str]:
    """Return the ids, or raise one ``PublishError`` with the failed messages."""
    if not failures:
        return [message.message_id for message in messages]
    failed = {failure.item.message_id for failure in failures}
    succeeded = [message.message_id for message in messages if message.message_id not in failed]
    raise PublishError(succeeded, failures) from failures[0].error
