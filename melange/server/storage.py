"""Everything that a broker keeps, in one file of SQLite, so that it survives restarts and kills.

The broker in memory stays the truth while it runs. What changed since the last commit is remembered, and is written in one
transaction before a call is answered: a file has whole calls only, and each answered one.

Not kept: receives that could be repeated by their attempt id, move tasks that were running, and deliveries over HTTP that
were not accepted yet.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.engine.deduplication import DeduplicationWindow
from melange.engine.fifo import FifoQueue
from melange.engine.queue import VISIBLE, Copy
from melange.errors import ConfigurationError
from melange.server.errors import ServiceError
from melange.server.sns.filter_policies import FilterPolicy
from melange.server.sns.topics import Subscription, Topic
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue

if TYPE_CHECKING:
    from melange.server.broker import Broker

FILE_NAME = "melange.sqlite"

_VERSION = 1
_SEQUENCE_GAP = 1_000_000
"""How far FIFO topics count ahead at a start: their last numbers are written with their topology only."""

_SCHEMA = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE messages (
    number INTEGER PRIMARY KEY, queue_arn TEXT NOT NULL, content TEXT NOT NULL, origin INTEGER NOT NULL, sent_at REAL NOT NULL,
    group_id TEXT, deduplication_id TEXT, source_arn TEXT, carried INTEGER NOT NULL, receive_count INTEGER NOT NULL,
    first_received_at REAL NOT NULL, received_at REAL NOT NULL, visible_at REAL
);
CREATE TABLE deduplication_ids (
    arn TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (arn, id)
) WITHOUT ROWID;
"""


class Storage:
    """The file of one broker. Everything but the constructor needs ``broker.lock``, which its callers hold.

    Args:
        directory: made if it does not exist.

    Raises:
        ConfigurationError: another server uses the directory, or the file is not one of a melange server.
    """

    def __init__(self, directory: Path, broker: Broker) -> None:
        self._broker = broker
        self._changed: dict[tuple[str, int], None] = {}
        self._remembered: dict[tuple[str, Hashable], tuple[float, Any]] = {}
        self._stored: set[int] = set()
        self._forgotten: set[str] = set()
        self._is_topology_changed = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._connection = _open(directory / FILE_NAME)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"cannot keep data in {directory}: {error}. One server at a time can use a directory"
            ) from error
        self._load()

    def message_changed(self, queue_arn: str, number: int) -> None:
        """Remember that a message has come, changed or gone."""
        self._changed[queue_arn, number] = None

    def id_remembered(self, arn: str, deduplication_id: Hashable, until: float, answer: Any) -> None:
        """Remember that a topic or queue has had a deduplication id."""
        self._remembered[arn, deduplication_id] = until, answer

    def ids_forgotten(self, arn: str) -> None:
        """Remember that a topic or queue accepts all deduplication ids again."""
        self._forgotten.add(arn)
        for key in [key for key in self._remembered if key[0] == arn]:
            del self._remembered[key]

    def topology_changed(self) -> None:
        """Remember that a topic, queue or subscription may have come, changed or gone; or the clock."""
        self._is_topology_changed = True

    def commit(self) -> None:
        """Write what has changed.

        Raises:
            ServiceError: it cannot be written now; the next commit tries again.
        """
        if self._is_topology_changed:
            self._keep_new_ones()
        if not (self._changed or self._remembered or self._forgotten or self._is_topology_changed):
            return
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                inserted, removed = self._write_messages()
                self._write_deduplication_ids()
                self._write_state()
        except sqlite3.Error as error:
            raise ServiceError("InternalFailure", f"The data cannot be written: {error}.", 500) from error
        self._stored.update(inserted)
        self._stored.difference_update(removed)
        self._changed.clear()
        self._remembered.clear()
        self._forgotten.clear()
        self._is_topology_changed = False

    def close(self) -> None:
        """Write what has changed, and close the file. Idempotent."""
        self.commit()
        self._connection.close()

    # --- writing -----------------------------------------------------------------------------------

    def _keep_new_ones(self) -> None:
        """Have new queues and topics say what changes."""
        for queue in self._broker.queues.values():
            if not isinstance(queue.stored.copies_by_number, _KeptCopies):
                self._keep_queue(queue, {})
        for topic in self._broker.topics.values():
            if not isinstance(topic.window, _KeptWindow):
                topic.window = _KeptWindow(self, topic.arn, topic.window)

    def _keep_queue(self, queue: Queue, copies: dict[int, Copy[SentMessage]]) -> None:
        known = {**copies, **queue.stored.copies_by_number}
        queue.stored.keep_copies_in(_KeptCopies(self, queue.arn, known))
        if isinstance(queue.stored, FifoQueue):
            queue.stored.keep_window_in(_KeptWindow(self, queue.arn, queue.stored.window))
        for number in known.keys() - self._stored:
            self.message_changed(queue.arn, number)

    def _write_messages(self) -> tuple[list[int], list[int]]:
        """Write the changed messages; return the numbers of the new and of the removed ones."""
        inserted: list[int] = []
        removed: list[int] = []
        updates: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        sources = {id(queue.stored): arn for arn, queue in self._broker.queues.items()}
        for arn, number in self._changed:
            queue = self._broker.queues.get(arn)
            copy = None if queue is None else queue.stored.find(number)
            if copy is None:
                removed.append(number)
                continue
            state = (
                copy.receive_count,
                copy.first_received_at,
                copy.received_at,
                None if copy.visible_at == VISIBLE else copy.visible_at,
            )
            if number in self._stored:
                updates.append((*state, number))
            else:
                source = sources.get(id(copy.source)) if copy.source is not None else None
                identity = (number, arn, _content_of(copy.message), copy.origin, copy.sent_at)
                rows.append((*identity, copy.group_id, copy.deduplication_id, source, copy.carried, *state))
                inserted.append(number)
        execute = self._connection.executemany
        execute("DELETE FROM messages WHERE number = ?", ((number,) for number in removed))
        execute(
            "UPDATE messages SET receive_count = ?, first_received_at = ?, received_at = ?, visible_at = ? WHERE number = ?",
            updates,
        )
        execute("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        return inserted, removed

    def _write_deduplication_ids(self) -> None:
        execute = self._connection.executemany
        if self._remembered:
            execute("DELETE FROM deduplication_ids WHERE until <= ?", [(self._broker.now(),)])
        execute("DELETE FROM deduplication_ids WHERE arn = ?", ((arn,) for arn in self._forgotten))
        execute(
            "INSERT OR REPLACE INTO deduplication_ids VALUES (?, ?, ?, ?)",
            (
                (arn, json.dumps(key), until, json.dumps(answer))
                for (arn, key), (until, answer) in self._remembered.items()
            ),
        )

    def _write_state(self) -> None:
        broker = self._broker
        state: dict[str, Any] = {"next_number": broker.next_number}
        if self._is_topology_changed:
            state |= {
                "id_prefix": broker.id_prefix,
                "advanced_seconds": broker.clock.advanced_seconds,
                "topology": _topology_of(broker),
            }
        self._connection.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?)",
            ((name, json.dumps(value)) for name, value in state.items()),
        )

    # --- reading -----------------------------------------------------------------------------------

    def _load(self) -> None:
        with self._broker.lock:
            state = {
                name: json.loads(value)
                for name, value in self._connection.execute("SELECT name, value FROM state")
            }
            if state:
                broker = self._broker
                broker.id_prefix = state["id_prefix"]
                broker.next_number = state["next_number"]
                broker.clock.advance(state["advanced_seconds"])
                self._make_topics(state["topology"])
                self._make_queues(state["topology"])
            self._is_topology_changed = True
            self.commit()

    def _make_topics(self, topology: dict[str, Any]) -> None:
        broker = self._broker
        ids = self._deduplication_ids()
        for kept in topology["topics"]:
            topic = broker.topics[kept["arn"]] = Topic(kept["arn"], kept["given"], kept["tags"])
            topic.attributes = kept["attributes"]
            topic.set_attributes({})
            topic.sequence = kept["sequence"] + _SEQUENCE_GAP
            topic.deleted_subscriptions = kept["deleted_subscriptions"]
            for key, until, answer in ids.get(topic.arn, ()):
                topic.window.restore(key, until, tuple(answer))
        for kept in topology["subscriptions"]:
            subscription = Subscription(
                kept["arn"],
                broker.topics[kept["topic_arn"]],
                protocol=kept["protocol"],
                endpoint=kept["endpoint"],
                owner=kept["owner"],
                token=kept["token"],
                is_pending=kept["is_pending"],
            )
            subscription.was_confirmed_by_call = kept["was_confirmed_by_call"]
            attributes = kept["attributes"]
            text = attributes.get("FilterPolicy")
            reads_body = attributes.get("FilterPolicyScope") == "MessageBody"
            subscription.set_attributes(
                attributes, FilterPolicy(text, reads_body=reads_body) if text else None
            )
            subscription.topic.subscriptions[subscription.arn] = broker.subscriptions[subscription.arn] = (
                subscription
            )

    def _make_queues(self, topology: dict[str, Any]) -> None:
        broker = self._broker
        for kept in topology["queues"]:
            queue = Queue(broker, kept["arn"], kept["attributes"], kept["tags"])
            queue.created_at, queue.modified_at = kept["created_at"], kept["modified_at"]
            queue.purged_at, queue.seal = kept["purged_at"], kept["seal"]
            broker.queues[queue.arn] = queue
        broker.deleted_queues.update(topology["deleted_queues"])
        for queue in broker.queues.values():
            queue.find_dead_letter_queue()
        copies: dict[str, dict[int, Copy[SentMessage]]] = {arn: {} for arn in broker.queues}
        for row in self._connection.execute("SELECT * FROM messages ORDER BY number"):
            arn, copy = _copy_of(row, broker)
            copies[arn][copy.number] = copy
            self._stored.add(copy.number)
            broker.bytes_kept += copy.message.memory
        ids = self._deduplication_ids()
        for queue in broker.queues.values():
            self._keep_queue(queue, copies[queue.arn])
            if isinstance(queue.stored, FifoQueue):
                for key, until, answer in ids.get(queue.arn, ()):
                    queue.stored.window.restore(key, until, answer)

    def _deduplication_ids(self) -> dict[str, list[tuple[Hashable, float, Any]]]:
        found: dict[str, list[tuple[Hashable, float, Any]]] = {}
        rows = self._connection.execute("SELECT arn, id, until, answer FROM deduplication_ids ORDER BY until")
        for arn, key, until, answer in rows:
            parsed = json.loads(key)
            found.setdefault(arn, []).append(
                (tuple(parsed) if isinstance(parsed, list) else parsed, until, json.loads(answer))
            )
        return found


class _KeptCopies(dict[int, Copy[SentMessage]]):
    """The copies of a queue; says which of them come and go."""

    def __init__(self, storage: Storage, queue_arn: str, copies: dict[int, Copy[SentMessage]]) -> None:
        super().__init__(copies)
        self._storage = storage
        self._queue_arn = queue_arn

    def __setitem__(self, number: int, copy: Copy[SentMessage]) -> None:
        super().__setitem__(number, copy)
        self._storage.message_changed(self._queue_arn, number)

    def __delitem__(self, number: int) -> None:
        super().__delitem__(number)
        self._storage.message_changed(self._queue_arn, number)

    def clear(self) -> None:
        for number in self:
            self._storage.message_changed(self._queue_arn, number)
        super().clear()


class _KeptWindow(DeduplicationWindow[Any]):
    """A deduplication window; says what it remembers."""

    __slots__ = ("_arn", "_storage")

    def __init__(self, storage: Storage, arn: str, window: DeduplicationWindow[Any]) -> None:
        super().__init__()
        self._storage = storage
        self._arn = arn
        for key, until, answer in window.entries():
            self.restore(key, until, answer)

    def remember(self, deduplication_id: Hashable, used_at: float, answer: Any) -> None:
        super().remember(deduplication_id, used_at, answer)
        self._storage.id_remembered(self._arn, deduplication_id, used_at + DEDUPLICATION_SECONDS, answer)

    def clear(self) -> None:
        super().clear()
        self._storage.ids_forgotten(self._arn)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # A kill of the process loses nothing that was written; only a crash of the whole machine may.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in {0, _VERSION} or (not version and tables):
            raise ConfigurationError(
                f"{path} was not written by this version of melange server: give another directory, or remove the file"
            )
        if not version:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _topology_of(broker: Broker) -> dict[str, Any]:
    return {
        "topics": [
            {
                "arn": topic.arn,
                "attributes": topic.attributes,
                "given": topic.given,
                "tags": topic.tags,
                "sequence": topic.sequence,
                "deleted_subscriptions": topic.deleted_subscriptions,
            }
            for topic in broker.topics.values()
        ],
        "subscriptions": [
            {
                "arn": one.arn,
                "topic_arn": one.topic.arn,
                "protocol": one.protocol,
                "endpoint": one.endpoint,
                "owner": one.owner,
                "token": one.token,
                "is_pending": one.is_pending,
                "was_confirmed_by_call": one.was_confirmed_by_call,
                "attributes": one.attributes,
            }
            for one in broker.subscriptions.values()
        ],
        "queues": [
            {
                "arn": queue.arn,
                "attributes": queue.attributes,
                "tags": queue.tags,
                "created_at": queue.created_at,
                "modified_at": queue.modified_at,
                "purged_at": queue.purged_at,
                "seal": queue.seal,
            }
            for queue in broker.queues.values()
        ],
        "deleted_queues": broker.deleted_queues,
    }


def _content_of(message: SentMessage) -> str:
    attributes = {
        name: {
            key: {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
            for key, value in attribute.items()
        }
        for name, attribute in message.attributes.items()
    }
    return json.dumps([message.body, attributes, message.sender_id, message.trace_header])


def _message_of(content: str) -> SentMessage:
    body, attributes, sender_id, trace_header = json.loads(content)
    read = {
        name: {
            key: b64decode(value["base64"]) if isinstance(value, dict) else value
            for key, value in attribute.items()
        }
        for name, attribute in attributes.items()
    }
    return SentMessage(body, read, sender_id=sender_id, trace_header=trace_header)


def _copy_of(row: tuple[Any, ...], broker: Broker) -> tuple[str, Copy[SentMessage]]:
    """Return the ARN of the queue and the copy that a row describes."""
    number, arn, content, origin, sent_at, group_id, deduplication_id, source_arn, carried, *state = row
    copy = Copy(
        _message_of(content), number, origin, sent_at, group_id=group_id, deduplication_id=deduplication_id
    )
    source = broker.queues.get(source_arn or "")
    copy.source = source.stored if source else None
    copy.carried = carried
    copy.receive_count, copy.first_received_at, copy.received_at, visible_at = state
    copy.visible_at = VISIBLE if visible_at is None else visible_at
    return arn, copy
