"""The relay: publishes the committed messages of the outbox."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import SingletonThreadPool

from melange.clock import Clock
from melange.drivers.base import MessagingDriver
from melange.drivers.registry import DriverManager, require_driver
from melange.errors import ConfigurationError, DriverClosedError, MelangeError, OutboxError, is_number
from melange.lifecycle import Lifecycle
from melange.outbox.database_errors import explained
from melange.outbox.locks import locks_for
from melange.outbox.relay_batch import BatchRelay
from melange.outbox.relay_loop import RelayLoop, StopSignal
from melange.outbox.schedule import Schedule
from melange.outbox.topic_publisher import TopicPublisher

logger = logging.getLogger(__name__)

_WEEK_SECONDS = 7 * 24 * 3600.0
MAX_BATCH_SIZE = 1_000
LONGEST_SILENCE_SECONDS = 90.0
"""The time limit of one batch: far longer than the time limit of a broker's answer."""


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """A relay's state at one moment.

    It is ``ready`` while it runs and the database has answered recently. A relay on standby on SQLite is ready too.
    ``seconds_since_round`` counts from the end of the last round: the relay looked for messages and published them,
    or found that another relay works. It is None before the first round.

    ``troubles`` are the paused topics, each with the reason of the last attempt. They are retried, and do not affect
    ``ready``, because a restart does not help.
    """

    ready: bool
    on_standby: bool
    seconds_since_round: float | None
    troubles: Mapping[str, MelangeError]


class OutboxRelay(Lifecycle):
    """Publishes the committed messages of ``Outbox``, in order for each key.

    A message is marked as sent after the broker has accepted it. If the relay is killed in between, or loses its
    connection to the database, the messages of the batch are published again with the same message ids: at least
    once. Any number of relays may run on PostgreSQL and share the work key by key. On SQLite one works and the others
    are on standby. A relay does not publish from a database that it cannot write to: a standby server, a read-only
    file, a user without permission.

    ``run`` blocks until SIGTERM, SIGINT or ``stop``; ``start``, ``running`` and ``lifespan`` work in the background. A
    relay runs once. Its thread is a daemon. Thread-safe. It takes its time from the driver's clock.
    """

    def __init__(
        self,
        engine: Engine,
        driver: MessagingDriver | None = None,
        *,
        declare: bool = True,
        batch_size: int = 100,
        max_attempts: int = 10,
        poll_seconds: float = 0.5,
        keep_sent_seconds: float | None = _WEEK_SECONDS,
        handle_signals: bool = True,
    ) -> None:
        """Prepare the relay; read and publish nothing yet.

        Args:
            engine: the database of the outbox, a synchronous engine. The relay uses two connections.
            driver: where to publish; by default the driver in use when the relay starts.
            declare: create topics that do not exist; False only looks them up.
            batch_size: the number of messages that are published before they are marked, in one transaction. As many
                can come twice if the relay is killed or loses its connection. On PostgreSQL it is also the limit of
                advisory locks.
            max_attempts: how often a message may fail while others are accepted, before it is marked as failed.
            poll_seconds: the pause when there is nothing to do. With psycopg on PostgreSQL a notification wakes the
                relay, and this finds messages without one.
            keep_sent_seconds: how long sent and skipped messages stay in the table; None keeps them until
                ``OutboxAdministration.purge``.
            handle_signals: stop on SIGTERM and SIGINT in ``run``, if that is called in the main thread.

        Raises:
            ConfigurationError: the engine is asynchronous, the database is not supported, or a number is out of
                bounds.
        """
        _check(batch_size, max_attempts, poll_seconds, keep_sent_seconds)
        require_driver(driver)
        self._stopping = StopSignal()
        super().__init__(self._stopping.set, handle_signals=handle_signals)
        self._locks = locks_for(engine)
        self._engine = self._locks.engine
        self._driver = driver
        self._declare = declare
        self._batch_size = batch_size
        self._max_attempts = max_attempts
        self._poll_seconds = poll_seconds
        self._keep_sent_seconds = keep_sent_seconds
        self._is_paused = False
        self._topics: TopicPublisher | None = None
        self._loop: RelayLoop | None = None
        self._lifecycle = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="melange-outbox-relay", daemon=True)

    @property
    def engine(self) -> Engine:
        """The database of the outbox."""
        return self._engine

    def start(self) -> None:
        """Relay in the background until ``stop``. Returns at once.

        Raises:
            ConfigurationError: no driver was chosen, the relay was started before, or the engine's database is in
                memory and each thread's own.
        """
        with self._lifecycle:
            if self._thread.ident is not None:
                raise ConfigurationError("a relay runs once: make a new one")
            if isinstance(self._engine.pool, SingletonThreadPool):
                raise ConfigurationError(
                    "with this engine each thread has a SQLite database in memory of its own: use a file, "
                    "create_engine(url, poolclass=StaticPool), or relay_pending()"
                )
            self._driver = self._chosen_driver()
            for one in self._driver.middleware:
                one.relay_started(self)
            self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Stop after the batch in flight and wait for that; return True if the relay has ended without an error.

        Safe to call twice, and before ``start``.
        """
        self._stopping.set()
        with self._lifecycle:
            if self._thread.ident is None:
                return True
        return self._ended.wait(timeout_seconds) and self._exit_code == 0

    def pause(self) -> None:
        """Publish nothing until ``resume``; another relay may take over. The batch in flight continues. Idempotent."""
        self._is_paused = True

    def resume(self) -> None:
        """Publish again. Idempotent."""
        self._is_paused = False

    def health(self) -> RelayHealth:
        """Return the state of the relay, without a call to database or broker."""
        silence = None if self._loop is None else self._loop.seconds_since_round()
        answers = silence is not None and silence <= self._poll_seconds + LONGEST_SILENCE_SECONDS
        return RelayHealth(
            ready=answers and not self._stopping.is_set() and not self._ended.is_set(),
            on_standby=self._loop is not None and self._loop.on_standby,
            seconds_since_round=silence,
            troubles={} if self._topics is None else dict(self._topics.errors),
        )

    def relay_pending(self, *, on_progress: Callable[[int], object] | None = None) -> int:
        """Publish the pending messages, in the calling thread; return the number of published messages.

        For tests and scheduled jobs. Refused messages are marked as failed and logged, as by ``run``. After each batch
        ``on_progress`` is called with the number of messages that are not pending any more; an exception in it ends the
        work.

        Raises:
            DriverError: a topic or the broker is unavailable; other messages were published, the rest is pending.
            ConfigurationError: no driver was chosen, or its settings are wrong; likewise.
            OutboxError: the database is unavailable or read-only, or another relay works on SQLite.
        """
        driver = self._chosen_driver()
        topics = TopicPublisher(driver, declare=self._declare)
        try:
            if not self._locks.acquire():
                raise OutboxError("another relay works on this SQLite database: it publishes what is pending")
            try:
                self._schedule(driver.clock).release_if_due()
                count = self._relay_all(self._batch_relay(topics, driver.clock), on_progress)
            finally:
                self._locks.release()
        except (SQLAlchemyError, OSError) as error:
            raise OutboxError(f"the outbox cannot be relayed: {explained(error)}") from error
        for trouble in topics.troubles:
            raise trouble
        return count

    def _relay_all(self, batches: BatchRelay, on_progress: Callable[[int], object] | None) -> int:
        count = 0
        while (progress := batches.relay()).done:
            count += progress.sent
            if on_progress is not None:
                on_progress(progress.done)
        return count

    # --- in the background -------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            # Nothing of the URL: a misplaced password may be in any part of it.
            logger.info("relaying the outbox of a %s database", self._engine.dialect.name)
            driver = self._chosen_driver()
            topics = TopicPublisher(driver, declare=self._declare)
            self._loop = RelayLoop(
                self._locks,
                self._batch_relay(topics, driver.clock),
                self._schedule(driver.clock),
                driver.clock,
                poll_seconds=self._poll_seconds,
                keep_sent_seconds=self._keep_sent_seconds,
            )
            self._topics = topics
            self._loop.run(self._stopping, lambda: self._is_paused, topics.seconds_to_next_try)
        except DriverClosedError:
            logger.error("the driver was closed: the relay ends, what is pending stays so")
            self._exit_code = 1
        except Exception:
            logger.exception("the relay broke off")
            self._exit_code = 1
        finally:
            self._locks.release()
            logger.info("the relay has stopped")
            self._ended.set()

    def _batch_relay(self, topics: TopicPublisher, clock: Clock) -> BatchRelay:
        return BatchRelay(
            topics,
            self._locks,
            clock,
            limit=self._batch_size,
            max_attempts=self._max_attempts,
            is_stopping=self._stopping.is_set,
        )

    def _schedule(self, clock: Clock) -> Schedule:
        return Schedule(self._locks, clock, self._poll_seconds)

    def _chosen_driver(self) -> MessagingDriver:
        return self._driver or DriverManager.instance().get_driver()


def _check(batch_size: int, max_attempts: int, poll_seconds: float, keep_sent_seconds: float | None) -> None:
    if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ConfigurationError(f"batch_size must be 1 to {MAX_BATCH_SIZE:,}, not {batch_size!r}")
    if not isinstance(max_attempts, int) or not max_attempts >= 1:
        raise ConfigurationError(f"max_attempts must be 1 or more, not {max_attempts!r}")
    if not is_number(poll_seconds) or not 0 < poll_seconds <= 3600:
        raise ConfigurationError(f"poll_seconds must be above 0 and at most 3,600, not {poll_seconds!r}")
    if keep_sent_seconds is not None and not (
        is_number(keep_sent_seconds) and 0 <= keep_sent_seconds < math.inf
    ):
        raise ConfigurationError(f"keep_sent_seconds must be 0 or more, or None, not {keep_sent_seconds!r}")
