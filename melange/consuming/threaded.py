"""A consumer that polls on a thread of its own."""

from __future__ import annotations

import logging
import threading
from typing import Any

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.outcomes import Backoff

logger = logging.getLogger(__name__)


class ThreadedExchangeMessageConsumer(ExchangeMessageConsumer):
    """An ``ExchangeMessageConsumer`` that consumes in the background between ``start`` and ``shutdown``.

    It takes the same arguments. The thread survives errors: they are logged, and polling goes on after a
    pause that grows while they last. It is a daemon thread and never keeps the process from exiting; what was
    in hand then comes back from the queue.
    """

    def __init__(self, event_queue_name: str, *topics_to_subscribe: str, **options: Any) -> None:
        super().__init__(event_queue_name, *topics_to_subscribe, **options)
        self._lifecycle = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin consuming; does nothing when it runs already. May be started again after ``shutdown``.

        Raises:
            ConfigurationError: there is no listener.
        """
        with self._lifecycle:
            if self._thread is not None and self._thread.is_alive():
                return
            self._require_listener()
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run,
                args=(self._stopping,),
                name=f"melange-consumer-{self.queue.name}",
                daemon=True,
            )
            self._thread.start()

    def shutdown(self, timeout_seconds: float | None = None) -> bool:
        """Stop consuming; return whether the thread has ended.

        Blocks until the open poll has ended and what it brought is settled, ``timeout_seconds`` at most. Safe
        to call twice, before ``start``, and from a listener, where it only asks and returns False.
        """
        with self._lifecycle:
            thread = self._thread
            self._stopping.set()
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout_seconds)
        return not thread.is_alive()

    def _run(self, stopping: threading.Event) -> None:
        backoff = Backoff(first_seconds=1.0, max_seconds=60.0)
        failures = 0
        while not stopping.is_set():
            try:
                self.consume_event()
                failures = 0
            except Exception:
                failures += 1
                pause_seconds = backoff(failures)
                logger.exception(
                    "consuming from queue %s failed; trying again in %.1f s",
                    self.queue.name,
                    pause_seconds,
                    extra={"queue_name": self.queue.name},
                )
                stopping.wait(pause_seconds)
