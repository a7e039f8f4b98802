"""Dead letters: look at them, retry, edit, remove, and move them on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from types import MappingProxyType

from melange.drivers.base import MessagingDriver, QueueDepth
from melange.drivers.dead_letters import (
    DeadLetterAccess,
    FoundDeadLetter,
    MessageMoves,
    MoveTask,
)
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError, MelangeError
from melange.messages import DEAD_LETTER_HEADER, Delivery, Message, Queue, new_uuid
from melange.operations.browsing import (
    Browsing,
    OnProgress,
    Pace,
    Report,
    Send,
    Settling,
    Stopping,
    never_stopping,
)
from melange.operations.model import (
    DEFAULT_ASPECTS,
    Aspect,
    DeadLetter,
    Group,
    dead_letter_from,
    event_type_in,
    grouped,
)
from melange.operations.selection import Selection
from melange.operations.source_queues import SourceQueues

EDITED_FROM_HEADER = "melange-edited-from"
"""Carries the message id of the dead letter from which a message was made."""

_EVERYTHING = Selection()


class DeadLetters:
    """The dead letters of a queue. Needs no more than the driver and the name. Thread-safe.

    ``queue_name`` is the queue where the messages failed, or a dead-letter queue itself. In the first case the letters of
    other queues that share the dead-letter queue are left alone.

    Looking is not taking, but the broker does not know that: whatever looks at a message receives it. So its receive count
    rises, and it is invisible to others until it was released, at the end of the look. What is in flight elsewhere cannot
    be seen. On a FIFO queue only the first messages of each group can be seen, at most ten: the others wait behind them.

    All methods block. They raise what the driver raises.

    Args:
        queue_name: a name, or what else the driver takes, such as an ARN.
        driver: None for the driver in use.

    Raises:
        ConfigurationError: the driver offers no administration of dead letters; the queue has no dead-letter queue.
        QueueNotFoundError: the queue does not exist.
    """

    def __init__(self, queue_name: str, driver: MessagingDriver | None = None) -> None:
        self._driver = driver or DriverManager.instance().get_driver()
        access = self._driver.dead_letter_access
        if access is None:
            raise ConfigurationError(
                f"{type(self._driver).__name__} offers no administration of dead letters: see dead_letter_access"
            )
        self._access: DeadLetterAccess = access
        named = self._driver.get_queue(queue_name)
        self._sources = SourceQueues(named, self._driver, access)
        self.queue: Queue = named.dead_letter_queue or named
        """The dead-letter queue."""
        self.source: Queue | None = self._sources.only
        """The queue from which these letters come; None for all queues."""

    @property
    def counts_are_estimates(self) -> bool:
        """True if the broker's counts may be wrong."""
        return self._access.counts_are_estimates

    def measure(self) -> QueueDepth:
        """Count the messages of the dead-letter queue, those of other sources included."""
        return self._access.measure(self.queue)

    def measure_source(self) -> QueueDepth | None:
        """Count the messages of the queue from which these letters come; None if a dead-letter queue was named itself."""
        return None if self.source is None else self._access.measure(self.source)

    # --- looking -----------------------------------------------------------------------------------

    def browse(
        self,
        selection: Selection = _EVERYTHING,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
        stopping: Stopping = never_stopping,
    ) -> Generator[DeadLetter]:
        """Yield the selected dead letters, in no certain order; at most ``limit``.

        They are invisible to others until the iterator is exhausted or closed. ``on_progress`` is called with the number
        of letters of each look, ``stopping`` before each: True ends it.

        Raises:
            ConfigurationError: ``limit`` is negative.
        """
        _require_count(limit)
        if limit == 0:
            return
        count = 0
        with self._browsing() as browsing:
            for found in _batches(browsing, stopping, on_progress):
                for _, letter in self._selected(found, selection):
                    yield letter
                    count += 1
                    if count == limit:
                        return

    def groups(
        self,
        selection: Selection = _EVERYTHING,
        *,
        by: Sequence[Aspect] = DEFAULT_ASPECTS,
        on_progress: OnProgress | None = None,
    ) -> list[Group]:
        """Return the selected dead letters in groups, the largest first."""
        return grouped(self.browse(selection, on_progress=on_progress), self._driver.clock.now(), by)

    # --- retrying and removing ---------------------------------------------------------------------

    def retry(
        self,
        selection: Selection,
        *,
        to: str | None = None,
        rate: float | None = None,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
        stopping: Stopping = never_stopping,
    ) -> Report:
        """Send the selected dead letters back to their queues, then remove them from the dead-letter queue.

        Each keeps its id, body, headers and FIFO group, so listeners that had finished the message do not run again. It is
        sent first and removed second: whenever this ends, by a kill too, each letter is in one of the queues, or for a
        moment in both. Letters that arrive meanwhile may be included; none is retried twice.

        Args:
            to: another queue than the one where each failed.
            rate: the most messages a second; None for as fast as possible.
            limit: the most messages.
            on_progress: called with the number of letters looked at.
            stopping: asked before each batch; True ends it.
        """
        destination = None if to is None else self._sources.other(to)
        if rate is not None and not rate > 0:
            raise ConfigurationError(f"rate must be a number of messages a second above 0, not {rate!r}")

        def send(deliveries: Sequence[Delivery], target: Queue) -> dict[str, MelangeError]:
            failures = self._access.resend(deliveries, target)
            return {failure.item.receipt_handle: failure.error for failure in failures}

        return self._settle(selection, Pace(rate, limit, stopping), on_progress, send, destination)

    def remove(
        self,
        selection: Selection,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
        stopping: Stopping = never_stopping,
    ) -> Report:
        """Remove the selected dead letters for good. That cannot be undone: export them first."""
        return self._settle(selection, Pace(limit=limit, stopping=stopping), on_progress, send=None)

    def edit(self, message_id: str, body: str, *, to: str | None = None) -> str:
        """Send a dead letter with another body, then remove it; return the new message id.

        The new message has the headers, the type and the group of the old one, and the old id in the header
        ``melange-edited-from``. It is another message: all listeners run for it.

        Raises:
            ConfigurationError: no such dead letter was seen.
            InvalidMessageError: the broker would refuse the body.
        """
        destination = None if to is None else self._sources.other(to)
        new_id = new_uuid()

        def send(deliveries: Sequence[Delivery], target: Queue) -> dict[str, MelangeError]:
            messages = [_edited(delivery.message, new_id, body, target) for delivery in deliveries]
            failures = self._driver.send(target, messages)
            return {deliveries[0].receipt_handle: failures[0].error} if failures else {}

        only_it = Selection(message_ids=frozenset({message_id}))
        report = self._settle(only_it, Pace(limit=1), None, send, destination)
        if report.not_done:
            raise report.not_done[0].error
        if not report.done:
            raise ConfigurationError(
                f"there is no dead letter with the id {message_id} in {self.queue.name!r}"
            )
        return new_id

    # --- whole queues, by the broker ---------------------------------------------------------------

    def start_move(self, *, to: str | None = None, messages_per_second: int | None = None) -> Queue:
        """Let the broker move the whole dead-letter queue; return the destination. It goes on when this has returned.

        The letters keep the note of their rejection, and those of other sources are moved as well. Messages that were not
        published with melange get a new id.

        Raises:
            ConfigurationError: the broker makes no moves; several queues share the dead-letter queue, and ``to`` is None.
        """
        destination = self._sources.only_one() if to is None else self._sources.other(to)
        self._moves().start(self.queue, destination, messages_per_second=messages_per_second)
        return destination

    def moves(self) -> list[MoveTask]:
        """Return the last moves of the whole queue, the newest first."""
        return self._moves().recent(self.queue)

    def cancel_move(self) -> int | None:
        """Stop the running move; return the number of messages it has moved, None if none was running."""
        return self._moves().cancel(self.queue)

    def _moves(self) -> MessageMoves:
        if self._access.moves is None:
            raise ConfigurationError("this broker moves no queues by itself: retry with a selection instead")
        return self._access.moves

    # --- inside ------------------------------------------------------------------------------------

    def _browsing(self) -> Browsing:
        depth = self.measure()
        return Browsing(self._driver, self._access, self.queue, depth.visible)

    def _selected(
        self, found: Sequence[FoundDeadLetter], selection: Selection
    ) -> Iterator[tuple[FoundDeadLetter, DeadLetter]]:
        now = self._driver.clock.now()
        for one in found:
            letter = dead_letter_from(one)
            if self._sources.includes(letter) and selection.includes(letter, now):
                yield one, letter

    def _settle(
        self,
        selection: Selection,
        pace: Pace,
        on_progress: OnProgress | None,
        send: Send | None,
        destination: Queue | None = None,
    ) -> Report:
        _require_count(pace.limit)

        def target_of(letter: DeadLetter) -> Queue:
            return destination or self._sources.target_of(letter)

        with self._browsing() as browsing:
            settling = Settling(self._driver, browsing, pace, send, target_of)
            report = settling.report
            for found in _batches(browsing, pace.stopping, on_progress):
                report.seen += len(found)
                settling.settle(self._selected(found, selection))
                all_found = bool(selection.message_ids) and selection.message_ids <= settling.begun_ids
                # After a failure on a FIFO queue, what follows may be of the same group.
                if settling.is_complete or all_found or (report.not_done and self.queue.is_fifo):
                    break
            else:
                report.was_stopped = pace.stopping()
        report.unfound_ids = sorted(selection.message_ids - settling.begun_ids)
        return report


def _require_count(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ConfigurationError(f"limit must be 0 or more, or None, not {limit!r}")


def _batches(
    browsing: Browsing, stopping: Stopping, on_progress: OnProgress | None
) -> Iterator[list[FoundDeadLetter]]:
    while not stopping():
        found = browsing.take()
        if not found:
            return
        if on_progress is not None:
            on_progress(len(found))
        yield found


def _edited(message: Message, new_id: str, body: str, target: Queue) -> Message:
    headers = {name: value for name, value in message.headers.items() if name != DEAD_LETTER_HEADER}
    headers[EDITED_FROM_HEADER] = message.message_id
    return message._replace(
        message_id=new_id,
        body=body,
        event_type_name=event_type_in(body) or message.event_type_name,
        headers=MappingProxyType(headers),
        message_group_id=message.message_group_id or (new_id if target.is_fifo else None),
        message_deduplication_id=new_id if target.is_fifo else None,
    )
