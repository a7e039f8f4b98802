"""Batches of ten: cutting them, sending them, and what becomes of the entries that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from melange.drivers.aws.calls import MAX_ATTEMPTS, Answer
from melange.drivers.aws.errors import is_transient
from melange.drivers.aws.wire import Entry
from melange.drivers.limits import MAX_BATCH, message_size
from melange.errors import DriverConnectionError, MelangeError
from melange.messages import Failure, ItemT, Message

_SMALL_MESSAGE_CHARACTERS = 2_000
"""Ten bodies of this length, in four-byte characters and with melange's own attributes, fit any batch."""


def split_by_size(messages: Sequence[Message], max_bytes: int) -> Iterator[Sequence[Message]]:
    """Cut messages into batches of at most ten and, summed, ``max_bytes``; each alone fits."""
    start = size = 0
    for index, message in enumerate(messages):
        added = _size_at_most(message)
        if index > start and (index - start == MAX_BATCH or size + added > max_bytes):
            yield messages[start:index]
            start, size = index, 0
        size += added
    if start < len(messages):
        yield messages[start:]


def run_batch(
    items: Sequence[ItemT],
    entry_of: Callable[[ItemT], Entry],
    call: Callable[[list[Entry]], Answer],
    error_of: Callable[[dict[str, Any]], MelangeError],
    pause: Callable[[int], None],
) -> list[Failure[ItemT]]:
    """Send one batch, and again what failed in passing; return what failed in the end.

    Raises:
        MelangeError: the broker refused the call as a whole, and nothing has happened.
    """
    pending = {str(index): item for index, item in enumerate(items)}
    entries = {entry_id: {"Id": entry_id, **entry_of(item)} for entry_id, item in pending.items()}
    failures: list[Failure[ItemT]] = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            answer = call([entries[entry_id] for entry_id in pending])
        except MelangeError as error:
            if attempt == 1 and not isinstance(error, DriverConnectionError):
                raise
            return failures + [Failure(item, error) for item in pending.values()]
        failed = _failed_entries(answer, pending)
        if not failed:
            return failures
        again = {}
        for entry_id, failed_entry in failed.items():
            if attempt < MAX_ATTEMPTS and is_transient(failed_entry):
                again[entry_id] = pending[entry_id]
            else:
                failures.append(Failure(pending[entry_id], error_of(failed_entry)))
        pending = again
        if not pending:
            return failures
        pause(attempt)
    return failures


def _failed_entries(answer: Answer, pending: dict[str, ItemT]) -> dict[str, dict[str, Any]]:
    """Return the failed entries by id; an entry that the answer does not mention has failed too."""
    failed = {entry["Id"]: entry for entry in answer.get("Failed", ()) if entry.get("Id") in pending}
    successful = {entry.get("Id") for entry in answer.get("Successful", ())}
    for entry_id in pending:
        if entry_id not in successful and entry_id not in failed:
            failed[entry_id] = {"Id": entry_id, "Code": "InternalError", "Message": "missing from the answer"}
    return failed


def _size_at_most(message: Message) -> int:
    # Counting bytes exactly costs more than the rest of cutting: small messages are estimated.
    if message.headers or len(message.body) > _SMALL_MESSAGE_CHARACTERS:
        return message_size(message)
    return 4 * len(message.body) + 4_096
