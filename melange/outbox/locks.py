"""What keeps several relays of one outbox out of each other's way."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from filelock import FileLock, Timeout
from sqlalchemy import ARRAY, ColumnElement, Connection, Engine, Integer, and_, bindparam, func, select, text

from melange.errors import ConfigurationError
from melange.outbox.database_errors import may_show_password
from melange.outbox.tables import IS_PENDING, OutboxMessage

_LOCK_CLASS = 0x6D6C6F62
"""The first of the two numbers of our advisory locks, so that they are not the application's."""

_TRIES = 20


class Locks(ABC):
    """Decides which of the pending messages a relay may send.

    Each key's messages are sent by one relay at a time: two that skipped the rows that the other has locked, row by row,
    would send the second message of a key before the first.
    """

    isolation_level: str | None = None
    """What the relay's transactions need for it; None for whatever the engine has."""
    live_in_transaction: bool
    """Whether locks are held as long as the transaction is, and so must outlast the publishing."""

    @abstractmethod
    def acquire(self) -> bool:
        """Return whether this relay may work at all; when not, another one does, and asking again may help."""

    @abstractmethod
    def release(self) -> None:
        """Let another relay work."""

    @abstractmethod
    def choose(
        self, connection: Connection, limit: int, among: ColumnElement[bool]
    ) -> ColumnElement[bool] | None:
        """Lock the keys of at most ``limit`` pending messages; return which messages may be sent, None for none.

        Only what is read after this is certain to be pending still. ``among`` leaves some out.
        """

    @abstractmethod
    def confirm(self, connection: Connection) -> None:
        """Return if what was chosen on this connection is locked still.

        Raises:
            SQLAlchemyError: the connection was lost, and its locks with it.
        """

    @abstractmethod
    def wait_for(self, connection: Connection, lock_key: int) -> None:
        """Lock one key until the transaction ends, as soon as no relay has it."""


def locks_for(engine: Engine) -> Locks:
    """Return the locks of a database.

    Raises:
        ConfigurationError: it is none of those that the relay knows, or not for synchronous use.
    """
    if not isinstance(engine, Engine) or engine.dialect.is_async:
        kind = engine.dialect.driver if isinstance(engine, Engine) else type(engine).__name__
        raise ConfigurationError(
            f"an outbox is relayed and looked into with a synchronous engine, create_engine(url), not {kind}, also "
            "where the application is asynchronous"
        )
    if may_show_password(engine.url):  # and every error of the database with it
        raise ConfigurationError(
            "the engine's URL has an @ in its host, database or options, which is most likely part of the password: "
            "write %40 for each @ of a password, and %2F for each /"
        )
    if engine.dialect.name == "postgresql":
        return PostgresLocks()
    if engine.dialect.name == "sqlite":
        return SqliteLocks(engine)
    raise ConfigurationError(
        f"the relay knows PostgreSQL and SQLite, not {engine.dialect.name}: without locks that fit the database two "
        "relays would mix up the order"
    )


class PostgresLocks(Locks):
    """An advisory lock for each key, held by the transaction and so given back whatever becomes of the relay."""

    isolation_level = "READ COMMITTED"  # so that what is read after locking is what is there by then
    live_in_transaction = True

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
                # Up to the last candidate: what comes after it would be searched for in vain, perhaps for long.
                return and_(_LOCK_KEY.in_(taken), OutboxMessage.id <= candidates[-1].id)
            busy |= wanted
        return None

    def _allow_long_transaction(self, connection: Connection) -> None:
        connection.execute(_IDLE_WHILE_PUBLISHING)
        if (connection.dialect.server_version_info or ()) >= _WITH_TRANSACTION_TIMEOUT:
            connection.execute(_LONG_TRANSACTION)

    def confirm(self, connection: Connection) -> None:
        # The locks live as long as the transaction, and that as long as the connection.
        connection.exec_driver_sql("SELECT 1")

    def wait_for(self, connection: Connection, lock_key: int) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, lock_key)))


_LOCK_KEY = func.coalesce(
    OutboxMessage.lock_key, 0
)  # without one a row would hide all the others from NOT IN
_wanted = func.unnest(bindparam("lock_keys", type_=ARRAY(Integer))).column_valued("lock_key")
_TRY_LOCKS = select(_wanted).where(func.pg_try_advisory_xact_lock(_LOCK_CLASS, _wanted))

# The server would end the transaction, and what was published would be published again, and again.
_IDLE_WHILE_PUBLISHING = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_LONG_TRANSACTION = text("SET LOCAL transaction_timeout = 0")
_WITH_TRANSACTION_TIMEOUT = (17,)
"""The first version of PostgreSQL that has it."""


class SqliteLocks(Locks):
    """One relay at a time, by a lock on a file beside the database's; the system gives it back after a kill."""

    live_in_transaction = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file_lock: FileLock | None = None
        self._holder: int | None = None

    def acquire(self) -> bool:
        if self._file_lock is None:
            path = self._database_path()
            if not path:  # in memory, where no other process is
                return True
            self._file_lock = FileLock(f"{path}-relay.lock", timeout=0, thread_local=False)
        if self._file_lock.is_locked:
            return self._holder == threading.get_ident()  # ``relay_pending`` beside a relay that was started
        try:
            self._file_lock.acquire()
        except Timeout:
            return False
        self._holder = threading.get_ident()
        return True

    def release(self) -> None:
        if self._file_lock is not None and self._holder == threading.get_ident():
            self._holder = None
            self._file_lock.release()

    def choose(
        self, connection: Connection, limit: int, among: ColumnElement[bool]
    ) -> ColumnElement[bool] | None:
        return among

    def confirm(self, connection: Connection) -> None:
        """Do nothing: the lock on the file is held by this process."""

    def wait_for(self, connection: Connection, lock_key: int) -> None:
        """Do nothing: SQLite's transactions come one after the other."""

    def _database_path(self) -> str:
        with self._engine.connect() as connection:
            path: str = connection.execute(
                text("SELECT file FROM pragma_database_list WHERE name = 'main'")
            ).scalar_one()
        return path
