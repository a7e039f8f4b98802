"""A worker inside of an event loop, in a process that is stopped while listeners run: uvicorn, and ``run_async``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from melange import ExchangeMessagePublisher, QueueNotFoundError
from melange.drivers.aws import AwsDriver
from melange.drivers.base import QueueDepth
from melange.server import Server
from services.servers import free_port
from waiting import eventually

APPLICATION = """
import asyncio, os, sys, threading, time
from pathlib import Path
from fastapi import FastAPI
from melange import DriverManager, ExchangeMessageConsumer, QueueOptions, Worker

DriverManager.instance().use_driver(driver_name="aws")
consumer = ExchangeMessageConsumer("work", "topic", queue=QueueOptions(wait_seconds=1, visibility_timeout_seconds=600))

def note(text):
    with Path("notes").open("a") as notes:
        notes.write(text + "\\n")

@consumer.listener("Asynchronous")
async def asynchronous(event):
    note("begun")
    try:
        while not Path("go").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note("cancelled")
        raise
    note("finished")

@consumer.listener("Plain")
def plain(event):
    note("begun")
    while not Path("go").exists():
        time.sleep(0.02)
    note("finished")

worker = Worker(consumer, concurrency=2, grace_seconds=float(os.environ["GRACE_SECONDS"]))

def note_stop():
    while not worker._shared.threads._closed:  # no other listener begins then
        time.sleep(0.02)
    Path("stopping").touch()

threading.Thread(target=note_stop, daemon=True).start()
app = FastAPI(lifespan=worker.lifespan)

if __name__ == "__main__":
    sys.exit(asyncio.run(worker.run_async()))
"""

UVICORN = ["-m", "uvicorn", "application:app", "--log-level", "warning", "--port"]
PROGRAM = ["application.py"]
# uvicorn shuts down gracefully, and then ends by the signal that it received.
AFTER_SIGTERM = [
    pytest.param(UVICORN, -signal.SIGTERM, id="uvicorn"),
    pytest.param(PROGRAM, 0, id="run_async"),
]


class Application:
    """The application as a process, with the broker that it works on."""

    def __init__(self, directory: Path, url: str, command: list[str], grace_seconds: int) -> None:
        (directory / "application.py").write_text(APPLICATION)
        port = [str(free_port())] if command is UVICORN else []
        self._directory = directory
        self._driver = AwsDriver(endpoint_url=url)
        self.process = subprocess.Popen(
            [sys.executable, *command, *port],
            cwd=directory,
            env={**os.environ, "AWS_ENDPOINT_URL": url, "GRACE_SECONDS": str(grace_seconds)},
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(self._is_bound)

    def _is_bound(self) -> bool:
        try:
            return bool(self._driver.list_bindings(self._driver.get_queue("work")))
        except QueueNotFoundError:
            return False

    def depth(self) -> QueueDepth:
        return self._driver.measure_queue(self._driver.get_queue("work"))

    def publish(self, event_type_name: str, count: int = 1) -> None:
        publisher = ExchangeMessagePublisher("topic", self._driver)
        publisher.publish_batch([{"event_type_name": event_type_name}] * count)

    def notes(self) -> list[str]:
        path = self._directory / "notes"
        return path.read_text().split() if path.exists() else []

    def is_stopping(self) -> bool:
        return (self._directory / "stopping").exists()

    def let_go(self) -> None:
        (self._directory / "go").touch()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._driver.close()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Application]]:
    applications = []
    with Server() as server:

        def make(command: list[str], grace_seconds: int) -> Application:
            applications.append(Application(tmp_path, server.url, command, grace_seconds))
            return applications[-1]

        yield make
        for application in applications:
            application.close()


@pytest.mark.parametrize(("command", "code"), AFTER_SIGTERM)
def test_listeners_at_work_finish_and_the_rest_is_released(start, command, code) -> None:
    application = start(command, grace_seconds=60)
    application.publish("Asynchronous")
    application.publish("Plain")
    eventually(lambda: application.notes() == ["begun", "begun"])
    application.publish("Plain", 5)

    application.process.send_signal(signal.SIGTERM)
    eventually(application.is_stopping)
    application.let_go()
    ended_with = application.process.wait(60)

    assert ended_with == code
    assert application.notes() == ["begun", "begun", "finished", "finished"]
    depth = application.depth()
    assert (depth.visible, depth.in_flight) == (5, 0)


@pytest.mark.parametrize(
    ("command", "code"), [(UVICORN, -signal.SIGTERM), (PROGRAM, 1)], ids=["uvicorn", "run_async"]
)
def test_after_the_grace_period_asynchronous_listeners_are_cancelled_and_their_messages_are_back(
    start, command, code
) -> None:
    application = start(command, grace_seconds=1)
    application.publish("Asynchronous", 2)
    eventually(lambda: application.notes() == ["begun", "begun"])

    application.process.send_signal(signal.SIGTERM)
    ended_with = application.process.wait(60)

    assert ended_with == code
    assert application.notes() == ["begun", "begun", "cancelled", "cancelled"]
    eventually(lambda: application.depth().visible == 2)  # after the delay of a retry
