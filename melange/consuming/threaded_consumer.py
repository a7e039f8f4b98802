"""A consumer that works in the background."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypedDict, Unpack

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.gates import Gate
from melange.consuming.listener import EventType
from melange.consuming.options import Deduplication, QueueOptions, RetryPolicy
from melange.consuming.worker import Worker
from melange.deduplication.base import DeduplicationStore, NoDeduplication
from melange.drivers.base import MessagingDriver
from melange.middleware import Middleware


class ConsumerOptions(TypedDict, total=False):
    """The keywords of ``ExchangeMessageConsumer``."""

    driver: MessagingDriver | None
    filter_events: Sequence[EventType] | None
    retry: RetryPolicy
    queue: QueueOptions
    deduplication: DeduplicationStore | Deduplication | NoDeduplication | None
    middleware: Sequence[Middleware]
    timeout_seconds: float | None
    flow: Sequence[Gate]


class ThreadedExchangeMessageConsumer(ExchangeMessageConsumer):
    """An ``ExchangeMessageConsumer`` that consumes in the background between ``start`` and ``shutdown``.

    It takes the same arguments, and those of ``Worker``. By default it runs one listener at
    a time. It survives errors: they are logged, and polling goes on after a pause that grows while they last. Its threads
    are daemons and never keep the process from exiting; what was in flight then is delivered again.
    """

    def __init__(
        self,
        event_queue_name: str,
        *topics_to_subscribe: str,
        concurrency: int = 1,
        grace_seconds: float = 25.0,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        super().__init__(event_queue_name, *topics_to_subscribe, **options)
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._lifecycle = threading.Lock()
        self._worker = self._new_worker()

    def start(self) -> None:
        """Start consuming; do nothing if it runs already. May be started again after ``shutdown``.

        It does not wait for listeners that are still running after a ``shutdown``.

        Raises:
            ConfigurationError: there is no listener.
        """
        with self._lifecycle:
            if self._worker.is_stopping:
                self._worker = self._new_worker()
            if not self._worker.has_started:
                self._worker.start()

    def shutdown(self, timeout_seconds: float | None = None) -> bool:
        """Stop consuming; return True if it has ended with nothing left behind.

        Blocks until the open poll has ended and running listeners are done, at most for the grace period or
        ``timeout_seconds``. Safe to call twice, before ``start``, and from a listener, where it returns False at once.
        """
        with self._lifecycle:
            worker = self._worker
        return worker.stop(timeout_seconds) if worker.has_started else True

    def _new_worker(self) -> Worker:
        return Worker(
            self, concurrency=self._concurrency, grace_seconds=self._grace_seconds, handle_signals=False
        )
