"""Which of the pending messages a relay may send next: the locks that let several relays share one outbox."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from filelock import FileLock, Timeout
from sqlalchemy import ARRAY, ColumnElement, Connection, Engine, Integer, and_, bindparam, func, select, text

from melange.errors import ConfigurationError
from melange.outbox.database_errors import require_whole_password
from melange.outbox.tables import IS_PENDING, OutboxMessage

_LOCK_CLASS = 0x6D6C6F62
"""The first of the two numbers of our advisory locks, so that they are not the application's."""

_SCHEDULE_LOCK_CLASS = 0x6D6C7363
"""The same for the one lock of the schedule."""

_TRIES = 20


class Locks(ABC):
    """Decides which of the pending messages a relay may send.

    One relay at a time sends the messages of a key. With locks on single rows, a relay would skip a locked row and send
    the second message of a key before the first.
    """

    engine: Engine
    """For all transactions of a relay, with the isolation level that they need."""
    live_in_transaction: bool
    """True if locks last as long as the transaction, so that it must outlast the publishing."""

    @abstractmethod
    def acquire(self) -> bool:
        """Return True if this relay may work; otherwise another one works, and a later try may succeed."""

    @abstractmethod
    def release(self) -> None:
        """Allow another relay to work."""

    @abstractmethod
    def choose(
        self, connection: Connection, limit: int, among: ColumnElement[bool]
    ) -> ColumnElement[bool] | None:
        """Lock the keys of at most ``limit`` pending messages; return the condition for messages to send, or None.

        Only messages that are read after this are certainly still pending. ``among`` excludes some.
        """

    @abstractmethod
    def confirm(self, connection: Connection) -> None:
        """Return while the messages chosen on this connection are locked; raise if they are not.

        Raises:
            SQLAlchemyError: the connection was lost, and its locks with it.
        """

    @abstractmethod
    def wait_for_schedule(self, connection: Connection) -> None:
        """Wait until no other relay moves scheduled messages, and keep others from it until the transaction ends."""

    @abstractmethod
    def wait_for(self, connection: Connection, lock_key: int) -> None:
        """Wait until no relay has the key, and lock it until the transaction ends."""


def locks_for(engine: Engine) -> Locks:
    """Return the locks of a database.

    Raises:
        ConfigurationError: the database is not supported, or the engine is asynchronous.
    """
    if not isinstance(engine, Engine) or engine.dialect.is_async:
        kind = engine.dialect.driver if isinstance(engine, Engine) else type(engine).__name__
        raise ConfigurationError(
            f"a relay and the administration of an outbox take a synchronous engine, create_engine(url), not {kind}: make one "
            "for the same database, also in an asynchronous application"
        )
    require_whole_password(engine)
    if engine.dialect.name == "postgresql":
        return PostgresLocks(engine)
    if engine.dialect.name == "sqlite":
        return SqliteLocks(engine)
    raise ConfigurationError(
        f"the relay supports PostgreSQL and SQLite, not {engine.dialect.name}: keep the outbox in one of these. On another "
        "database there are no locks that keep two relays from mixing up the order"
    )


class PostgresLocks(Locks):
    """An advisory lock for each key. It ends with the transaction, also if the relay is killed."""

    live_in_transaction = True

    def __init__(self, engine: Engine) -> None:
        # So that a read after locking sees the latest rows.
        self.engine = engine.execution_options(isolation_level="READ COMMITTED")

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Do nothing: the locks end with their transactions."""

    def choose(
        self, connection: Connection, limit: int, among: ColumnElement[bool]
    ) -> ColumnElement[bool] | None:
        busy: set[int] = set()
        for _ in range(_TRIES):
            candidates = connection.execute(
                select(OutboxMessage.id, _LOCK_KEY)
                .where(IS_PENDING, among, _LOCK_KEY.not_in(busy))
                .order_by(OutboxMessage.id)
                .limit(limit)
            ).all()
            if not candidates:
                return None
            wanted = {lock_key for _, lock_key in candidates}
            taken = set(connection.scalars(_TRY_LOCKS, {"lock_keys": list(wanted)}))
            if taken:
                self._allow_long_transaction(connection)
                # Up to the last candidate: a search beyond it would find nothing, and may take long.
                return and_(_LOCK_KEY.in_(taken), OutboxMessage.id <= candidates[-1].id)
            busy |= wanted
        return None

    def _allow_long_transaction(self, connection: Connection) -> None:
        connection.execute(_IDLE_WHILE_PUBLISHING)
        if (connection.dialect.server_version_info or ()) >= _WITH_TRANSACTION_TIMEOUT:
            connection.execute(_LONG_TRANSACTION)

    def confirm(self, connection: Connection) -> None:
        # The locks last as long as the transaction, and the transaction as long as the connection.
        connection.exec_driver_sql("SELECT 1")

    def wait_for(self, connection: Connection, lock_key: int) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, lock_key)))

    def wait_for_schedule(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_SCHEDULE_LOCK_CLASS, 0)))


# A row without a lock key would hide all the others from NOT IN.
_LOCK_KEY = func.coalesce(OutboxMessage.lock_key, 0)
_wanted = func.unnest(bindparam("lock_keys", type_=ARRAY(Integer))).column_valued("lock_key")
_TRY_LOCKS = select(_wanted).where(func.pg_try_advisory_xact_lock(_LOCK_CLASS, _wanted))

# The server would end the transaction, and what was published would be published again, and again.
_IDLE_WHILE_PUBLISHING = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_LONG_TRANSACTION = text("SET LOCAL transaction_timeout = 0")
_WITH_TRANSACTION_TIMEOUT = (17,)
"""The first version of PostgreSQL that has it."""


class SqliteLocks(Locks):
    """One relay at a time, with a lock on a file beside the database. The system releases it after a kill."""

    live_in_transaction = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changing = threading.Lock()
        self._file_lock: FileLock | None = None
        self._holder: int | None = None
        """The thread that works: ``relay_pending`` may be called beside a relay that was started."""

    def acquire(self) -> bool:
        with self._changing:
            if self._holder is not None:
                return self._holder == threading.get_ident()
            if self._file_lock is None:
                path = self._database_path()
                if not path:  # in memory, without other processes
                    return True
                self._file_lock = FileLock(f"{path}-relay.lock", timeout=0, thread_local=False)
            try:
                self._file_lock.acquire()
            except Timeout:
                return False
            self._holder = threading.get_ident()
            return True

    def release(self) -> None:
        with self._changing:
            if self._file_lock is not None and self._holder == threading.get_ident():
                self._holder = None
                self._file_lock.release()

    def choose(
        self, connection: Connection, limit: int, among: ColumnElement[bool]
    ) -> ColumnElement[bool] | None:
        return among

    def confirm(self, connection: Connection) -> None:
        """Do nothing: the lock on the file is held by this process."""

    def wait_for_schedule(self, connection: Connection) -> None:
        """Do nothing: one relay works."""

    def wait_for(self, connection: Connection, lock_key: int) -> None:
        """Do nothing: SQLite's transactions come one after the other."""

    def _database_path(self) -> str:
        with self.engine.connect() as connection:
            path: str = connection.execute(
                text("SELECT file FROM pragma_database_list WHERE name = 'main'")
            ).scalar_one()
        return path
