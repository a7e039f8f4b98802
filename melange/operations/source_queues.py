"""The queues from which dead letters come, and to which they go back."""

from __future__ import annotations

from melange.drivers.base import MessagingDriver
from melange.drivers.dead_letters import DeadLetterAccess, is_named_for_dead_letters
from melange.errors import (
    ConfigurationError,
    DriverClosedError,
    DriverConnectionError,
    DriverError,
    QueueNotFoundError,
)
from melange.messages import Queue
from melange.operations.model import DeadLetter


class SourceQueues:
    """Finds the queue of each dead letter in a dead-letter queue.

    ``named`` is the queue that the operator has named: a source, to which the letters are limited, or the dead-letter queue
    itself.

    Raises:
        ConfigurationError: the queue has no dead-letter queue, and is none.
    """

    def __init__(self, named: Queue, driver: MessagingDriver, access: DeadLetterAccess) -> None:
        self.only: Queue | None = named if named.dead_letter_queue else None
        """The queue to which the letters are limited; None for all queues."""
        self._dead_letter_queue = named.dead_letter_queue or named
        self._driver = driver
        self._access = access
        self._addresses = self._find(named)
        self._targets: dict[str, Queue] = {}

    @property
    def names(self) -> list[str]:
        """The queues from which letters come, as far as the broker tells."""
        return sorted(self._addresses)

    def includes(self, letter: DeadLetter) -> bool:
        """Return True unless the letters are limited to a queue, and this one has failed in another."""
        if self.only is None or letter.queue_name == self.only.name:
            return True
        # One that does not say where it failed can only be of the only source.
        return letter.queue_name is None and list(self._addresses) == [self.only.name]

    def target_of(self, letter: DeadLetter) -> Queue:
        """Return the queue where the letter failed.

        Raises:
            ConfigurationError: that queue is not known, or does not use this dead-letter queue.
        """
        name = letter.queue_name
        if self.only is not None and name in (None, self.only.name):
            return self.only
        if name is None and len(self._addresses) == 1:
            (name,) = self._addresses
        target = None if name is None else self._named(name)
        if target is None:
            raise ConfigurationError(
                f"message {letter.message_id} failed in "
                + (
                    f"queue {name!r}, which does not send"
                    if name
                    else "an unknown queue, and several or none send"
                )
                + f" its dead letters to {self._dead_letter_queue.name!r}: say where to retry it with to= (--to)"
            )
        return target

    def only_one(self) -> Queue:
        """Return the only queue from which letters come.

        Raises:
            ConfigurationError: there are several, or none is known.
        """
        if self.only is not None:
            return self.only
        found = self._named(*self._addresses) if len(self._addresses) == 1 else None
        if found is not None:
            return found
        sources = ", ".join(self.names) or "none is known"
        raise ConfigurationError(
            f"say where to move {self._dead_letter_queue.name!r} with to= (--to): {sources}"
        )

    def other(self, name: str) -> Queue:
        """Return a queue by its name, as another destination.

        Raises:
            ConfigurationError: it is the dead-letter queue itself.
        """
        queue = self._driver.get_queue(name)
        if queue.address == self._dead_letter_queue.address:
            raise ConfigurationError(f"{name!r} is the dead-letter queue itself: name another queue")
        return queue

    def _find(self, named: Queue) -> dict[str, str]:
        try:
            sources = self._access.sources(self._dead_letter_queue)
        except (DriverConnectionError, DriverClosedError, QueueNotFoundError):
            raise
        except DriverError:
            # Without the permission, or on a server without the call, a letter that does not say where it failed needs to=.
            sources = {named.name: named.address} if self.only else {}
        # The sources of a dead-letter queue may have been deleted or renamed, and its letters are still there.
        if not sources and not is_named_for_dead_letters(self._dead_letter_queue):
            raise ConfigurationError(
                f"queue {named.name!r} has no dead-letter queue, and no queue is known that uses it as one: looking into it "
                "could take messages from its consumers"
            )
        return sources

    def _named(self, name: str) -> Queue | None:
        """Return the queue if it uses this dead-letter queue: any program can write a name into a note."""
        if name not in self._targets:
            try:
                queue = self._driver.get_queue(self._addresses.get(name, name))
            except (ConfigurationError, QueueNotFoundError):
                return None
            target = queue.dead_letter_queue
            if target is None or target.address != self._dead_letter_queue.address:
                return None
            self._targets[name] = queue
        return self._targets[name]
