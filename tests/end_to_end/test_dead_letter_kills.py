"""``melange dead-letters retry`` is killed at random moments, and loses nothing.

``MELANGE_TEST_KILLS=50`` has as many kills; ``-s`` prints the figures.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from uuid import uuid4

import pytest

from melange.drivers.aws import AwsDriver
from melange.messages import DEAD_LETTER_HEADER, Message, Queue
from waiting import eventually

KILLS = int(os.environ.get("MELANGE_TEST_KILLS") or 3)
ENOUGH = 1_000
"""So many dead letters are there at each start, which no run can retry before it is killed."""

BATCH = 10
LATEST_KILL_SECONDS = 1.0

RETRY = ["-m", "melange.cli", "dead-letters", "retry"]

REMOVES_FIRST = """
import sys, time
from melange.drivers.aws import AwsDriver

driver = AwsDriver()
source = driver.get_queue(sys.argv[1])
access = driver.dead_letter_access
while found := access.browse(source.dead_letter_queue, visibility_timeout_seconds=60):
    deliveries = [one.delivery for one in found]
    driver.acknowledge(deliveries)
    time.sleep(0.1)
    access.resend(deliveries, source)
"""


@pytest.fixture
def source(driver):
    dead_letters = driver.declare_queue(f"kills-{uuid4().hex}-dlq")
    return driver.declare_queue(
        dead_letters.name.removesuffix("-dlq"), dead_letter_queue=dead_letters, max_receive_count=1_000
    )


class Kills:
    """Kills a program again and again while dead letters are refilled."""

    def __init__(self, driver: AwsDriver, source: Queue, endpoint_url: str, seed: int) -> None:
        assert source.dead_letter_queue is not None
        self._driver = driver
        self._source = source
        self._dead_letters = source.dead_letter_queue
        self._environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint_url}
        self._random = random.Random(seed)
        self.sent: set[str] = set()
        self.kills = 0

    def kill(self, program: list[str]) -> None:
        """Start the program and kill it at a random moment of its work."""
        self._refill()
        process = subprocess.Popen(
            [sys.executable, *program],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Counted from the first message that has moved, as starting takes long and differs.
        before = self._waiting()
        eventually(lambda: self._waiting() < before or process.poll() is not None)
        try:
            process.wait(self._random.uniform(0, LATEST_KILL_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills += 1

    def stop(self, program: list[str]) -> int:
        """Start the program, send it SIGTERM while it works, and return its exit code."""
        self._refill()
        before = self._waiting()
        process = subprocess.Popen(
            [sys.executable, *program],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: self._waiting() < before)
        process.terminate()
        return process.wait(60)

    def finish(self, program: list[str]) -> None:
        """Run the program until no dead letter is left, also those that a killed one has kept invisible."""

        def is_empty() -> bool:
            if self._waiting():
                subprocess.run(
                    [sys.executable, *program], env=self._environment, check=True, capture_output=True
                )
            depth = self._driver.measure_queue(self._dead_letters)
            return depth.visible + depth.in_flight == 0

        eventually(is_empty, timeout_seconds=100)

    def arrived(self) -> Counter[str]:
        """Return how often each message is in the queue, and check that it is as it was."""
        counts: Counter[str] = Counter()
        while deliveries := self._driver.receive(self._source, BATCH, 1, visibility_timeout_seconds=600):
            for delivery in deliveries:
                message = delivery.message
                assert json.loads(message.body) == {"event_type_name": "Work", "id": message.message_id}
                assert dict(message.headers) == {"tenant": "north"}
                counts[message.message_id] += 1
            self._driver.acknowledge(deliveries)
        return counts

    def _waiting(self) -> int:
        return self._driver.measure_queue(self._dead_letters).visible

    def _refill(self) -> None:
        headers = {
            "tenant": "north",
            DEAD_LETTER_HEADER: json.dumps({"reason": "no", "queue": self._source.name}),
        }
        while self._waiting() < ENOUGH:
            ids = [str(uuid4()) for _ in range(500)]
            bodies = {one: json.dumps({"event_type_name": "Work", "id": one}) for one in ids}
            messages = [Message(one, body, headers=headers) for one, body in bodies.items()]
            assert self._driver.send(self._dead_letters, messages) == []
            self.sent.update(ids)


@pytest.mark.timeout(150 + 30 * KILLS)
def test_a_retry_that_is_killed_at_random_moments_loses_nothing(driver, source, sns_sqs_server) -> None:
    program = [*RETRY, source.name, "--all"]
    kills = Kills(driver, source, sns_sqs_server, seed=1)

    while kills.kills < KILLS:
        kills.kill(program)
    kills.finish(program)

    counts = kills.arrived()
    lost = kills.sent - counts.keys()
    twice = sum(count - 1 for count in counts.values())
    sys.stdout.write(
        f"kills {kills.kills}, dead letters {len(kills.sent):,}, lost {len(lost)}, twice {twice}\n"
    )
    assert not lost
    assert counts.keys() <= kills.sent
    assert twice <= BATCH * kills.kills  # those that were sent and not yet removed


def test_a_retry_that_is_asked_to_stop_releases_what_it_holds(driver, source, sns_sqs_server) -> None:
    kills = Kills(driver, source, sns_sqs_server, seed=1)

    code = kills.stop([*RETRY, source.name, "--all", "--rate", "50"])

    assert code == 1
    depth = driver.measure_queue(source.dead_letter_queue)
    assert (depth.in_flight, depth.visible > 0) == (0, True)
    assert len(kills.arrived()) + depth.visible == len(kills.sent)


def test_a_retry_that_removes_first_would_be_caught(driver, source, sns_sqs_server) -> None:
    program = ["-c", REMOVES_FIRST, source.name]
    kills = Kills(driver, source, sns_sqs_server, seed=1)

    for _ in range(3):
        kills.kill(program)
    kills.finish([*RETRY, source.name, "--all"])

    assert kills.sent - kills.arrived().keys()
