"""Some listeners never return: with a time limit the rest goes on, without one the health says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any
from unittest import mock

from chaos.checker import Findings
from chaos.rows.result import RowResult
from chaos.scene import Services
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, RetryPolicy, Worker
from melange.consuming import health
from melange.drivers.memory import InMemoryDriver

CONCURRENCY = 4
MAX_ATTEMPTS = 2
GRACE_SECONDS = 5.0
GRACE_OF_HANGING_SECONDS = 1.0
LATE_SECONDS = 30.0
PLAIN, ASYNCHRONOUS = "Plain", "Asynchronous"
NO_TIME_LIMIT = "no time limit"


def hang(
    services: Services,
    seed: int,
    *,
    messages: int,
    hanging: int,
    timeout_seconds: float,
    silence_seconds: float,
    patience_seconds: float = 60.0,
    sabotage: str = "",
) -> RowResult:
    """Let every ``messages / hanging``-th message hang, half of them asynchronously; then let all hang without a limit."""
    del seed  # nothing here is left to chance
    services.tell("hang: with a time limit")
    limited = HangingQueue(messages, hanging, None if sabotage == NO_TIME_LIMIT else timeout_seconds)
    limited.work_off(patience_seconds)
    wrong = limited.wrong()
    silent_after = 0.0
    if not sabotage:
        services.tell("hang: without a time limit")
        silent_after = _seconds_until_not_ready(silence_seconds)
        if not silence_seconds <= silent_after < silence_seconds + LATE_SECONDS:
            wrong.append(
                f"not ready after {silent_after:.0f} s without a poll instead of {silence_seconds:g} s"
            )
    return RowResult(
        load=f"{messages:,} messages, {hanging} of which never return, concurrency {CONCURRENCY}, time limit "
        f"{timeout_seconds:g} s; then {CONCURRENCY} without a time limit",
        findings=Findings(stuck=limited.left),
        measured={
            "runs given up": limited.timed_out,
            "cleaned up by asynchronous listeners": limited.cleaned_up,
            "stop": f"{limited.stop_seconds:.1f} s",
            "not ready without a time limit": f"after {silent_after:.0f} s",
        },
        wrong=wrong,
    )


class HangingQueue:
    """A queue in memory; some of its messages make their listeners hang."""

    def __init__(
        self, messages: int, hanging: int, timeout_seconds: float | None, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self.effects: list[int] = []
        self.cleaned_up = 0
        self.timed_out = 0
        self.stop_seconds = 0.0
        self.left = 0
        self._messages = messages
        self._hanging = set(range(0, messages, messages // hanging))
        self._never = threading.Event()
        self._complaints: list[str] = []
        self._driver = InMemoryDriver()
        self._consumer = self._subscribed(timeout_seconds)
        ExchangeMessagePublisher("hang", self._driver).publish_batch(
            {"event_type_name": ASYNCHRONOUS if number % 2 else PLAIN, "number": number}
            for number in range(messages)
        )
        self._worker = Worker(
            self._consumer, concurrency=CONCURRENCY, grace_seconds=grace_seconds, handle_signals=False
        )

    def is_ready(self) -> bool:
        """Return True if the worker is ready, as its health says."""
        return self._worker.health().ready

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    def work_off(self, patience_seconds: float) -> None:
        """Work until nothing is left, or for so long, and stop."""
        self.start()
        deadline = time.monotonic() + patience_seconds
        while self._count_left() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.left = self._count_left()
        self.timed_out = self._worker.health().queues[0].timed_out
        if not self.is_ready():
            self._complaints.append("not ready, although the rest went on")
        began_at = time.monotonic()
        if not self._worker.stop():
            self._complaints.append("the stop left something behind")
        self.stop_seconds = time.monotonic() - began_at
        self._never.set()

    def give_up(self) -> None:
        """Stop, with the listeners that hang left to themselves."""
        self._never.set()
        self._worker.stop()

    def wrong(self) -> list[str]:
        """Return what was not as it should be with a time limit."""
        wrong = list(self._complaints)
        dead_letters = self._dead_letters()
        if sorted(self.effects) != sorted(set(range(self._messages)) - self._hanging):
            wrong.append(f"{len(self.effects)} effects instead of {self._messages - len(self._hanging)}")
        if dead_letters != len(self._hanging):
            wrong.append(f"{dead_letters} dead letters instead of {len(self._hanging)}")
        if self.timed_out != MAX_ATTEMPTS * len(self._hanging):
            wrong.append(f"{self.timed_out} runs given up instead of {MAX_ATTEMPTS * len(self._hanging)}")
        asynchronous = sum(number % 2 for number in self._hanging)
        if self.cleaned_up != MAX_ATTEMPTS * asynchronous:
            wrong.append(f"{self.cleaned_up} cancelled listeners have cleaned up")
        if self.stop_seconds > GRACE_SECONDS + 1:
            wrong.append(f"the stop took {self.stop_seconds:.1f} s")
        return wrong

    def _subscribed(self, timeout_seconds: float | None) -> ExchangeMessageConsumer:
        consumer = ExchangeMessageConsumer(
            "hang",
            "hang",
            driver=self._driver,
            retry=RetryPolicy(max_attempts=MAX_ATTEMPTS, backoff=lambda attempt: 0.1),
            queue=QueueOptions(visibility_timeout_seconds=2, wait_seconds=1),
            timeout_seconds=timeout_seconds,
        )

        @consumer.listener(PLAIN, name="plain")
        def plain(event: Mapping[str, Any]) -> None:
            if event["number"] in self._hanging:
                self._never.wait()
            else:
                self.effects.append(event["number"])

        @consumer.listener(ASYNCHRONOUS, name="asynchronous")
        async def asynchronous(event: Mapping[str, Any]) -> None:
            if event["number"] not in self._hanging:
                self.effects.append(event["number"])
                return
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cleaned_up += 1

        return consumer

    def _count_left(self) -> int:
        depth = self._driver.measure_queue(self._consumer.queue)
        return depth.visible + depth.in_flight + depth.delayed

    def _dead_letters(self) -> int:
        assert self._consumer.queue.dead_letter_queue
        return self._driver.measure_queue(self._consumer.queue.dead_letter_queue).visible


def _seconds_until_not_ready(silence_seconds: float) -> float:
    """Hang all listeners without a time limit; return the seconds until the health says so."""
    queue = HangingQueue(CONCURRENCY, CONCURRENCY, None, GRACE_OF_HANGING_SECONDS)
    with mock.patch.object(health, "LONGEST_SILENCE_SECONDS", silence_seconds):
        began_at = time.monotonic()  # before the first poll, so that a shorter silence is always found
        queue.start()
        while not queue.is_ready():  # not before its first poll
            time.sleep(0.005)
        while queue.is_ready() and time.monotonic() - began_at < silence_seconds + LATE_SECONDS:
            time.sleep(0.05)
        seconds = time.monotonic() - began_at
    queue.give_up()
    return seconds
