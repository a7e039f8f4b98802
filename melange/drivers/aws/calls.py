"""One way to call SNS and SQS: errors mapped, what botocore does not retry retried, nothing after close."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from melange.clock import Clock
from melange.drivers.aws.errors import Refusal, is_missed_by_botocore, mapped_errors
from melange.errors import ConfigurationError, DriverClosedError, DriverConnectionError

Answer = dict[str, Any]

MAX_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


class BrokerCalls:
    """Calls methods of botocore clients. Thread-safe."""

    def __init__(self, clock: Clock, jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._closed = False
        self._wake = threading.Condition()

    def __call__(
        self,
        method: Callable[..., Answer],
        action: str,
        resource: str,
        /,
        *,
        refusal: Refusal = ConfigurationError,
        **parameters: Any,
    ) -> Answer:
        """Return the answer of ``method(**parameters)``; see ``mapped_errors`` for the rest."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.check_open()
            try:
                with mapped_errors(action, resource, refusal):
                    return method(**parameters)
            except DriverConnectionError as error:
                if attempt == MAX_ATTEMPTS or not is_missed_by_botocore(error.__cause__):
                    raise
                self.pause(attempt)
        raise AssertionError("unreachable")

    def pause(self, attempt: int) -> None:
        """Wait before the next attempt: capped exponential backoff with full jitter; ends at ``close()``."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        self.wait(longest * self._jitter())

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or until ``close()``."""
        with self._wake:
            if not self._closed:
                self._clock.wait(self._wake, seconds)

    def check_open(self) -> None:
        """Raise ``DriverClosedError`` after ``close()``."""
        if self._closed:
            raise DriverClosedError

    def close(self) -> bool:
        """Refuse calls from now on; return whether this was the first time."""
        with self._wake:
            first, self._closed = not self._closed, True
            self._wake.notify_all()
        return first
