"""Where a run takes place: its databases, topic and queue, and its processes by what they do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import NullPool, create_engine, func, select
from sqlalchemy.orm import Session

from chaos.broker import drained, driver_for, left_in
from chaos.checker import STORE_OUTAGE, Fault
from chaos.deaths import EXIT_CODE
from chaos.journal import BEGAN, POLLED, PUBLISHED
from chaos.outbox.checker import Committed, OutboxEvidence
from chaos.outbox.settings import OutboxSettings
from chaos.outbox.tables import Effect, Written, prepare
from chaos.processes import WorkerProcess
from chaos.scene import Scene, Services
from melange import ExchangeMessageConsumer
from melange.messages import Queue
from melange.outbox import InboxMark, OutboxMessage
from melange.outbox.tables import MessageState
from services.postgres import database_of_its_own

WRITER = "writer"
RELAY = "relay"
CONSUMER = "consumer"
AT_WORK = {WRITER: BEGAN, RELAY: PUBLISHED, CONSUMER: POLLED}
"""What a process has written down once it is worth killing; a relay on standby is not."""

POSTGRESQL = "postgresql"
SQLITE = "sqlite"


class OutboxStage(Scene):
    """One run. On a FIFO topic a second queue tells in which order messages arrived, else the relays do."""

    def __init__(
        self,
        services: Services,
        name: str,
        seed: int,
        *,
        database: str = POSTGRESQL,
        is_fifo: bool = True,
        endpoint_url: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(services, name, seed)
        suffix = ".fifo" if is_fifo else ""
        self._driver = self._opened.enter_context(driver_for(services.sns_sqs_url))
        self.settings = OutboxSettings(
            database_url=self._database(database, "writers"),
            effects_url=self._database(database, "consumers"),
            endpoint_url=endpoint_url or services.sns_sqs_url,
            topic=f"topic-{self._ids}{suffix}",
            queue=f"queue-{self._ids}{suffix}",
            journals=str(self._directory),
            seed=f"{name} {seed}",
            **settings,
        )
        for url in (self.settings.database_url, self.settings.effects_url):
            prepare(url, self.settings.keys)
        self.queue = self._declared(self.settings.queue)
        self._tap = self._declared(f"tap-{self._ids}{suffix}") if is_fifo else None
        self._roles: dict[int, str] = {}
        self._first: dict[int, int] = {}
        self.fallen = 0

    # --- processes ---------------------------------------------------------------------------------

    def start_all(self, *, lanes: Iterable[int], relays: int, consumers: int = 0) -> None:
        """Start a writer in each of these lanes, and relays and consumers."""
        for lane in lanes:
            self.start_writer(lane)
        for role in [RELAY] * relays + [CONSUMER] * consumers:
            self.start_one(role)

    def start_writer(self, first: int, fail_point: str = "") -> WorkerProcess:
        """Start a writer that begins with this transaction."""
        worker = self.start_one(WRITER, fail_point, first=first)
        self._first[worker.process_number] = first
        return worker

    def start_one(self, role: str, fail_point: str = "", **settings: Any) -> WorkerProcess:
        """Start one process."""
        worker = self.start(f"chaos.outbox.{role}", replace(self.settings, **settings), fail_point)
        self._roles[worker.process_number] = role
        return worker

    def one_at_work(self, role: str) -> WorkerProcess | None:
        """Return a process that has begun to work, by chance; wait for it. None once there are none of its kind."""

        def at_work() -> list[WorkerProcess]:
            return [worker for worker in self._of(role) if worker.count(AT_WORK[role])]

        self.wait_for(lambda: bool(at_work()) or not self._of(role), f"a {role} to work")
        found = at_work()
        return self.random.choice(found) if found else None

    def replace(self, dead: WorkerProcess, fail_point: str = "") -> None:
        """Start a process that goes on with what a dead one did."""
        role = self._roles.pop(dead.process_number)
        if role == WRITER:
            begun = dead.count(BEGAN)
            self.start_writer(self._first[dead.process_number] + begun * self.settings.lanes, fail_point)
        else:
            self.start_one(role, fail_point)

    def replace_fallen(self) -> None:
        """Replace the processes that have died at a fail point since it was last asked."""
        for process in list(self._processes):
            if (
                process.process_number in self._roles
                and not process.is_alive()
                and process.wait() == EXIT_CODE
            ):
                self.await_death(process)
                self.replace(process)
                self.fallen += 1

    def restart_postgres(self, away_seconds: float) -> None:
        """Kill the database server, and start it after a while."""
        began_at = time.monotonic()
        self._services.postgres.kill()
        time.sleep(away_seconds)
        self._services.postgres.start()
        self.faults.append(Fault(STORE_OUTAGE, began_at, time.monotonic()))

    def stop(self) -> list[int]:
        """Stop all processes; return the exit codes of those that nobody has killed."""
        self.wait_for(lambda: all(process.has_journal() for process in self.workers), "processes to begin")
        self.stop_workers()
        codes = [process.wait() for process in self._processes]
        return [code for code in codes if code not in {-signal.SIGKILL, EXIT_CODE}]

    # --- waiting -----------------------------------------------------------------------------------

    def wait_until_begun(self, transactions: int) -> None:
        """Wait until so many transactions were begun, or nothing has moved for a long while."""

        def missing() -> int:
            self.replace_fallen()
            begun = sum(one.count(BEGAN) for one in self._processes if one.process_number in self._first)
            return max(0, transactions - begun)

        self.wait_until_none(missing, "transactions")

    def wait_until_done(self) -> None:
        """Wait until all is written, relayed and consumed, or nothing has moved for a long while."""
        for left, of_what in (
            (lambda: len(self._of(WRITER)), "writers"),
            (self.unsent, "messages of the outbox"),
            (lambda: left_in(self._driver, self.queue) if self._of(CONSUMER) else 0, "messages"),
        ):
            self.wait_until_none(partial(self._left, left), of_what)

    def _left(self, left: Callable[[], int]) -> int:
        self.replace_fallen()
        return left()

    def _of(self, role: str) -> list[WorkerProcess]:
        return [worker for worker in self.workers if self._roles.get(worker.process_number) == role]

    # --- evidence ----------------------------------------------------------------------------------

    def count(self, table: type[Any], *conditions: Any) -> int:
        """Count the rows of a table in the database that it belongs to."""
        url = self.settings.effects_url if table in {Effect, InboxMark} else self.settings.database_url
        return int(self._asked(url, select(func.count()).select_from(table).where(*conditions))[0][0])

    def unsent(self) -> int:
        """Return how many messages are in the outbox and were not sent."""
        return self.count(OutboxMessage, OutboxMessage.state != MessageState.SENT)

    def evidence(self) -> OutboxEvidence:
        """Collect what is known; the processes have to be stopped."""
        records = self.records()
        committed = self._asked(
            self.settings.database_url, select(Written.message_id, Written.key, Written.number)
        )
        effects = self._asked(self.settings.effects_url, select(Effect.message_id))
        has_consumers = CONSUMER in self._roles.values()
        dead_letters = self.queue.dead_letter_queue
        assert dead_letters
        return OutboxEvidence(
            committed=[Committed(*row) for row in committed],
            arrivals=(
                drained(self._driver, self._tap)
                if self._tap
                else [record.message_id for record in records if record.kind == PUBLISHED]
            ),
            effects=[row[0] for row in effects] if has_consumers else None,
            records=records,
            dead_letters=drained(self._driver, dead_letters),
            faults=self.faults,
            unsent=self.unsent(),
            left=left_in(self._driver, self.queue) if has_consumers else 0,
        )

    def _asked(self, url: str, query: Any) -> list[Any]:
        engine = create_engine(url, poolclass=NullPool)
        with Session(engine) as session:
            return list(session.execute(query))

    def _declared(self, queue: str) -> Queue:
        return ExchangeMessageConsumer(queue, self.settings.topic, driver=self._driver).queue

    def _database(self, kind: str, name: str) -> str:
        if kind == SQLITE:
            return f"sqlite:///{self._directory / name}.db"
        return self._opened.enter_context(database_of_its_own(self._services.postgres.url))
