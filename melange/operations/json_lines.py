"""Dead letters as lines of JSON, for a test or a ticket, and back into a queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from melange.drivers.base import MessagingDriver
from melange.drivers.dead_letters import is_named_for_dead_letters
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import ConfigurationError, Failure, MelangeError
from melange.messages import DEAD_LETTER_HEADER, JSON_CONTENT_TYPE, Message, Queue
from melange.operations.model import DeadLetter
from melange.operations.selection import Selection
from melange.serialization.masking import masked_body
from melange.serialization.serializer import EventSerializer

_TEXTS = ("event_type_name", "message_group_id", "message_deduplication_id")


def export_line(
    letter: DeadLetter, *, masked: bool = False, serializer: EventSerializer | None = None
) -> str:
    """Return the dead letter as one line of JSON, in ASCII, with all that ``imported`` needs.

    With ``masked`` the sensitive fields of typed events are masked, and the line cannot be imported.
    """
    message = letter.message
    body = message.body
    if masked:
        body = masked_body(body, message.event_type_name, serializer)
    line: dict[str, Any] = {
        "message_id": message.message_id,
        "event_type_name": message.event_type_name,
        "body": body,
        "headers": dict(message.headers),
        "published_at": None if message.published_at is None else message.published_at.isoformat(),
        "content_type": message.content_type,
        "message_group_id": message.message_group_id,
        "message_deduplication_id": message.message_deduplication_id,
        "reason": letter.reason,
        "queue_name": letter.queue_name,
        "dead_since": None if letter.dead_since is None else letter.dead_since.isoformat(),
        "masked": masked,
    }
    return json.dumps(line)


def import_lines(
    queue_name: str, lines: Iterable[str], driver: MessagingDriver | None = None
) -> list[Failure[Message]]:
    """Send exported messages to the queue ``queue_name``, each with its id; return those that the broker refused.

    The note with the reason is kept if that is a dead-letter queue. All lines are read before the first is sent. Blocks.

    Raises:
        ConfigurationError: a line was not exported, or is masked; it names the line.
        QueueNotFoundError: the queue does not exist.
    """
    driver = driver or DriverManager.instance().get_driver()
    queue = driver.get_queue(queue_name)
    access = driver.dead_letter_access
    is_for_dead_letters = queue.dead_letter_queue is None and (
        is_named_for_dead_letters(queue) or bool(access and access.sources(queue))
    )
    messages = [_for_queue(message, queue) for message in imported(lines, with_note=is_for_dead_letters)]
    failures: list[Failure[Message]] = []
    for start in range(0, len(messages), MAX_BATCH):
        batch = messages[start : start + MAX_BATCH]
        try:
            failures += driver.send(queue, batch)
        except MelangeError as error:  # the batch was refused as a whole
            failures += [Failure(message, error) for message in batch]
    return failures


def _for_queue(message: Message, queue: Queue) -> Message:
    if not queue.is_fifo:
        return message._replace(message_deduplication_id=None)
    return message._replace(
        message_group_id=message.message_group_id or message.message_id,
        message_deduplication_id=message.message_deduplication_id or message.message_id,
    )


def exported_letters(lines: Iterable[str]) -> Selection:
    """Return the selection of the dead letters in exported lines, masked ones too.

    It selects them by id and by the time of the rejection: a message that was imported and has failed again is another
    dead letter.

    Raises:
        ConfigurationError: a line was not exported; or there is none, because an empty selection would select everything.
    """
    dead_since: dict[str, datetime | None] = {}
    for number, text in _numbered(lines):
        with _naming_line(number):
            line = json.loads(text)
            message_id, moment = line["message_id"], line["dead_since"]
            dead_since[str(message_id)] = None if moment is None else datetime.fromisoformat(moment)
    if not dead_since:
        raise ConfigurationError(
            "the file has no exported dead letter: write it with `melange dead-letters export`"
        )
    return Selection(message_ids=frozenset(dead_since), dead_since=dead_since)


def imported(lines: Iterable[str], *, with_note: bool = False) -> Iterator[Message]:
    """Yield the messages of exported lines, with the id of the original; empty lines are skipped.

    ``with_note`` keeps the reason of the dead letter, to put it into a dead-letter queue again.

    Raises:
        ConfigurationError: a line was not exported, or is masked; it names the line.
    """
    for number, text in _numbered(lines):
        with _naming_line(number):
            message = _message(json.loads(text), with_note=with_note)
        yield message


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, text) for number, text in enumerate(lines, start=1) if text.strip())


@contextmanager
def _naming_line(number: int) -> Iterator[None]:
    """Raise ``ConfigurationError`` with the number of the line for what is wrong with it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigurationError(
            f"line {number} is not an exported dead letter ({type(error).__name__}): "
            "write the file with `melange dead-letters export`"
        ) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"line {number}: {error}") from None


def _message(line: Any, *, with_note: bool) -> Message:
    if not isinstance(line, dict):
        raise TypeError("not an object")
    if line.get("masked"):
        raise ConfigurationError("its sensitive fields are masked: export it without masks to import it")
    headers = dict(line["headers"])
    if not with_note:
        headers.pop(DEAD_LETTER_HEADER, None)
    texts = [line["message_id"], line["body"], *headers, *headers.values()]
    optional = [line.get(name) for name in (*_TEXTS, "content_type")]
    texts += [text for text in optional if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    published_at = line.get("published_at")
    moment = None if published_at is None else datetime.fromisoformat(published_at)
    return Message(
        message_id=line["message_id"],
        body=line["body"],
        headers=MappingProxyType(headers),
        published_at=moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment,
        content_type=line.get("content_type") or JSON_CONTENT_TYPE,
        **{name: line.get(name) for name in _TEXTS},
    )
