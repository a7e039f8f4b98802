"""Everything that a broker keeps, in one file of SQLite, so that it survives restarts and kills.

The broker in memory stays the truth while it runs. What changed since the last commit is remembered, and is written in one
transaction before a call is answered: a file has whole calls only, and each answered one.

Not kept: receives that could be repeated by their attempt id.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.engine.fifo import DeduplicationWindow, FifoQueue
from melange.engine.queue import Copy
from melange.errors import ConfigurationError
from melange.server.errors import ServiceError
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue
from melange.server.state import (
    BrokerState,
    KeptCopy,
    KeptId,
    arns_by_stored_queue,
    kept_copy,
    key_of,
    message_json,
    message_of,
    restore,
    topology_of,
)

if TYPE_CHECKING:
    from melange.server.broker import Broker

FILE_NAME = "melange.sqlite"

_VERSION = 2

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
CREATE TABLE http_deliveries (id INTEGER PRIMARY KEY, content TEXT NOT NULL);
"""


@dataclass(slots=True)
class _Changes:
    """What is not in the file yet."""

    messages: dict[tuple[str, int], None] = field(default_factory=dict)
    """The queue's ARN and the message's number, in order: they came, changed or went."""
    ids: dict[tuple[str, Hashable], tuple[float, Any]] = field(default_factory=dict)
    """Until when, and for which answer, a topic or queue knows a deduplication id."""
    cleared_windows: set[str] = field(default_factory=set)
    deliveries: set[int] = field(default_factory=set)
    is_topology_changed: bool = False
    are_tasks_changed: bool = False
    is_all_changed: bool = False

    def __bool__(self) -> bool:
        return self != _Changes()


class Storage:
    """The file of one broker. Everything but the constructor needs ``broker.lock``, which its callers hold.

    Args:
        directory: made if it does not exist.

    Raises:
        ConfigurationError: another server uses the directory, or the file is not one of a melange server.
    """

    def __init__(self, directory: Path, broker: Broker) -> None:
        self._broker = broker
        self._changes = _Changes()
        self._stored: set[int] = set()
        """The numbers of the messages in the file."""
        self._is_signing_key_kept = False
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
        self._changes.messages[queue_arn, number] = None

    def id_remembered(self, arn: str, deduplication_id: Hashable, until: float, answer: Any) -> None:
        """Remember that a topic or queue has had a deduplication id."""
        self._changes.ids[arn, deduplication_id] = until, answer

    def ids_forgotten(self, arn: str) -> None:
        """Remember that a topic or queue accepts all deduplication ids again."""
        self._changes.cleared_windows.add(arn)
        for key in [key for key in self._changes.ids if key[0] == arn]:
            del self._changes.ids[key]

    def delivery_changed(self, delivery_id: int) -> None:
        """Remember that a delivery over HTTP has come, failed or gone."""
        self._changes.deliveries.add(delivery_id)

    def move_tasks_changed(self) -> None:
        """Remember that a message move task has gone on."""
        self._changes.are_tasks_changed = True

    def all_changed(self) -> None:
        """Remember that nothing in the file is true any more."""
        changes = self._changes
        changes.is_all_changed = changes.is_topology_changed = changes.are_tasks_changed = True
        self._is_signing_key_kept = False
        self._stored.clear()

    def topology_changed(self) -> None:
        """Remember that a topic, queue or subscription may have come, changed or gone; or the clock."""
        self._changes.is_topology_changed = True

    def commit(self) -> None:
        """Write what has changed.

        Raises:
            ServiceError: it cannot be written now; the next commit tries again.
        """
        if self._changes.is_topology_changed:
            self._keep_new_ones()
        if not self._changes:
            return
        has_signed = self._broker.signer.has_signed
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                if self._changes.is_all_changed:
                    for table in ("messages", "deduplication_ids", "http_deliveries"):
                        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
                inserted, removed = self._write_messages()
                self._write_deduplication_ids()
                self._write_deliveries()
                self._write_state()
        except sqlite3.Error as error:
            raise ServiceError("InternalFailure", f"The data cannot be written: {error}.", 500) from error
        self._stored.update(inserted)
        self._stored.difference_update(removed)
        self._changes = _Changes()
        self._is_signing_key_kept = has_signed

    def close(self) -> None:
        """Write what has changed, and close the file. Idempotent."""
        try:
            self.commit()
        finally:
            self._connection.close()

    # --- writing -----------------------------------------------------------------------------------

    def _keep_new_ones(self) -> None:
        """Have new queues and topics say what changes."""
        for queue in self._broker.queues.values():
            if not isinstance(queue.stored.copies_by_number, _KeptCopies):
                self._keep_queue(queue)
        for topic in self._broker.topics.values():
            if not isinstance(topic.window, _KeptWindow):
                topic.window = _KeptWindow(self, topic.arn, topic.window)

    def _keep_queue(self, queue: Queue) -> None:
        copies = queue.stored.copies_by_number
        queue.stored.keep_copies_in(_KeptCopies(self, queue.arn, copies))
        if isinstance(queue.stored, FifoQueue):
            queue.stored.keep_window_in(_KeptWindow(self, queue.arn, queue.stored.window))
        for number in copies.keys() - self._stored:
            self.message_changed(queue.arn, number)

    def _write_messages(self) -> tuple[list[int], list[int]]:
        """Write the changed messages; return the numbers of the new and of the removed ones."""
        inserted: list[int] = []
        removed: list[int] = []
        updates: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        sources = arns_by_stored_queue(self._broker)
        for arn, number in self._changes.messages:
            queue = self._broker.queues.get(arn)
            copy = None if queue is None else queue.stored.copies_by_number.get(number)
            if copy is None:
                removed.append(number)
                continue
            kept = kept_copy(arn, copy, sources)
            if number in self._stored:
                updates.append((*kept[-4:], number))
            else:
                rows.append((*kept[:2], message_json(kept.message), *kept[3:]))
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
        if self._changes.ids:
            execute("DELETE FROM deduplication_ids WHERE until <= ?", [(self._broker.now(),)])
        execute(
            "DELETE FROM deduplication_ids WHERE arn = ?", ((arn,) for arn in self._changes.cleared_windows)
        )
        execute(
            "INSERT OR REPLACE INTO deduplication_ids VALUES (?, ?, ?, ?)",
            (
                (arn, json.dumps(key), until, json.dumps(answer))
                for (arn, key), (until, answer) in self._changes.ids.items()
            ),
        )

    def _write_deliveries(self) -> None:
        found = {one: self._broker.http_deliveries.find(one) for one in self._changes.deliveries}
        self._connection.executemany(
            "DELETE FROM http_deliveries WHERE id = ?",
            ((one,) for one, delivery in found.items() if delivery is None),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO http_deliveries VALUES (?, ?)",
            ((one, json.dumps(delivery.kept())) for one, delivery in found.items() if delivery is not None),
        )

    def _write_state(self) -> None:
        broker = self._broker
        state: dict[str, Any] = {"next_number": broker.next_number}
        if not self._is_signing_key_kept and broker.signer.has_signed:
            state["signing_key"] = broker.signer.key_as_text
        if self._changes.are_tasks_changed or self._changes.is_topology_changed:
            state["move_tasks"] = [task.kept() for task in broker.move_tasks.values()]
        if self._changes.is_topology_changed:
            state |= {
                "id_prefix": broker.id_prefix,
                "advanced_seconds": broker.clock.advanced_seconds,
                "topology": topology_of(broker),
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
                self._broker.clock.advance(state["advanced_seconds"])
                kept = BrokerState(
                    self._broker.now(),
                    state["next_number"],
                    state["id_prefix"],
                    state.get("signing_key"),
                    state["topology"],
                    self._copies(),
                    self._ids(),
                    self._kept_deliveries(),
                    state["move_tasks"],
                )
                self._stored.update(copy.number for copy in kept.copies)
                restore(self._broker, kept, is_as_new=False)
                # Those of a subscription that is gone are not made again.
                self._changes.deliveries.update(delivery["id"] for delivery in kept.deliveries)
            self._changes.is_topology_changed = True
            self.commit()

    def _copies(self) -> list[KeptCopy]:
        rows = self._connection.execute("SELECT * FROM messages ORDER BY number")
        return [KeptCopy(number, arn, message_of(content), *rest) for number, arn, content, *rest in rows]

    def _ids(self) -> list[KeptId]:
        rows = self._connection.execute("SELECT arn, id, until, answer FROM deduplication_ids ORDER BY until")
        return [
            KeptId(arn, key_of(json.loads(key)), until, json.loads(answer))
            for arn, key, until, answer in rows
        ]

    def _kept_deliveries(self) -> list[dict[str, Any]]:
        rows = self._connection.execute("SELECT content FROM http_deliveries ORDER BY id")
        return [json.loads(content) for (content,) in rows]


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
            storage.id_remembered(arn, key, until, answer)

    def remember(self, deduplication_id: Hashable, used_at: float, answer: Any) -> None:
        super().remember(deduplication_id, used_at, answer)
        self._storage.id_remembered(self._arn, deduplication_id, used_at + DEDUPLICATION_SECONDS, answer)

    def clear(self) -> None:
        super().clear()
        self._storage.ids_forgotten(self._arn)
