"""Calls of SNS and SQS: mapped errors, a time limit, retries of temporary failures, an end at close."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import NoCredentialsError

from melange.clock import Clock
from melange.drivers.aws.clients import Clients
from melange.drivers.aws.errors import error_for, keeps_its_cause
from melange.drivers.aws.operations import Answer, Operation
from melange.errors import DriverClosedError, DriverConnectionError

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


class BrokerCalls:
    """Calls SNS and SQS. Thread-safe; a forked process continues with its own clients."""

    def __init__(
        self,
        clients: Clients,
        clock: Clock,
        call_timeout_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.clients = clients
        self.attempts = clients.attempts
        self.clock = clock
        self.policy_lock = threading.Lock()
        """Held while a queue's policy is read and written."""
        self._retry_seconds = call_timeout_seconds / 2
        self._jitter = jitter
        self._closed = False
        self._wake = threading.Condition()

    def __call__(
        self,
        operation: Operation,
        resource: str,
        /,
        *,
        started: float | None = None,
        read: Callable[[Answer], Any] | None = None,
        **parameters: Any,
    ) -> Any:
        """Return the result of ``operation``; ``resource`` is the topic's or queue's name, for errors.

        ``read`` reads the answer instead of the operation's own function.

        An attempt takes at most half of the call's time, and none begins after the first half; ``started`` is the
        beginning of a series of calls that share one time limit.

        Raises:
            MelangeError: see ``error_for``. A mistake in code is raised as it is.
        """
        started = self.clock.monotonic() if started is None else started
        read = read or operation.read
        for attempt in range(1, self.attempts + 1):
            self.check_open()
            clients = self.clients
            transport = clients.transports.get(operation.client) or clients.transport(operation.client)
            try:
                return read(transport.call(operation, parameters))
            except Exception as error:
                mapped = error_for(error, operation.permission, resource, operation.refusal, parameters)
                if mapped is None or mapped is error:
                    raise
                if isinstance(error, NoCredentialsError):
                    self.clients.forget()
                if not isinstance(mapped, DriverConnectionError) or not self.may_retry(attempt, started):
                    raise mapped from (error if keeps_its_cause(error, parameters) else None)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def listed(self, operation: Operation, resource: str, key: str, /, **parameters: Any) -> Iterator[Any]:
        """Yield what all pages of a listing have under ``key``: one call for each page, when it is needed."""
        while True:
            answer = self(operation, resource, **parameters)
            yield from answer.get(key) or ()
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]

    def may_retry(self, attempt: int, started: float) -> bool:
        """Wait before the next attempt, if there is one: exponential backoff with a limit and full jitter."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        pause = longest * self._jitter()
        if attempt >= self.attempts or self.clock.monotonic() + pause - started > self._retry_seconds:
            return False
        self.wait(pause)
        return True

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or until ``close()``."""
        with self._wake:
            if not self._closed:
                self.clock.wait(self._wake, seconds)

    def check_open(self) -> None:
        """Raise ``DriverClosedError`` after ``close()``; notice when this is another process than before."""
        if self._closed:
            raise DriverClosedError
        if self.clients.process_id != os.getpid():
            # Answers to two processes on one connection would be mixed up: one queue's messages would reach another
            # queue's listener. Threads that are not in this process may hold the locks.
            self.policy_lock, self._wake = threading.Lock(), threading.Condition()
            self.clients.start_in_this_process()

    def close(self) -> None:
        """Refuse calls from now on, and end waits. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.clients.process_id == os.getpid():
            with self._wake:
                self._wake.notify_all()
        self.clients.close()
