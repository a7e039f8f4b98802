"""`melange worker` as real processes, on a local SNS+SQS server: signals, exit codes, processes that die."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.request import urlopen
from uuid import uuid4

import pytest

from melange import ExchangeMessagePublisher
from melange.cli.probes import STALE_SECONDS
from melange.signals import SAME_REQUEST_SECONDS
from services.servers import free_port
from waiting import eventually

DEADLINE_SECONDS = 60

MODULE = [sys.executable, "-m", "melange.cli"]
SCRIPT = [str(Path(sys.executable).with_name("melange"))]

APPLICATION = """
import os, signal, threading, time
from pathlib import Path
from melange import DriverManager, ExchangeMessageConsumer, QueueOptions

DriverManager.instance().use_driver(driver_name="aws")
consumer = ExchangeMessageConsumer(os.environ["QUEUE"], os.environ["QUEUE"], queue=QueueOptions(wait_seconds=1))

def wait():
    while not Path("go").exists():
        time.sleep(0.02)

@consumer.listener("Work", name="work")
def work(event):
    with Path("begun").open("a") as begun:
        begun.write("begun\\n")
    if event["kills"]:
        os.kill(os.getpid(), signal.SIGKILL)
    elif event["leaves_thread"]:
        threading.Thread(target=wait, daemon=False).start()
    elif event["waits"]:
        wait()
"""

HALF_CRASHING = """
import os, sys
if sys.argv[sys.argv.index("--process-number") + 1] == "1":
    os._exit(1)
from application import consumer
"""

IN_MEMORY = """
from melange import ExchangeMessageConsumer
from melange.drivers.memory import InMemoryDriver

consumer = ExchangeMessageConsumer("stock", "products", driver=InMemoryDriver())
consumer.listener("ProductAdded", name="shelves")(print)
"""


class Command:
    """The command as a process, and what it has logged."""

    def __init__(
        self, command: list[str], directory: Path, environment: dict[str, str], log: IO[bytes]
    ) -> None:
        self._directory = directory
        # Its own session stands for a terminal. Children inherit standard output: its end is the end of all.
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text()

    def begun(self) -> int:
        """Return how many messages its listener has begun to work on."""
        path = self._directory / "begun"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def let_go(self) -> None:
        """Let listeners that wait return."""
        (self._directory / "go").touch()

    def working_processes(self) -> list[int]:
        """Return the ids of the processes whose workers have begun, in that order."""
        return [int(found) for found in re.findall(r"\[(\d+)\] \S+: working on queue", self.log)]

    def wait_for(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.log}"
            return condition()

        eventually(holds, timeout_seconds=DEADLINE_SECONDS, explain=lambda: self.log)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_again(self, number: signal.Signals) -> None:
        """Send another signal, late enough not to be taken for the same request."""
        time.sleep(2 * SAME_REQUEST_SECONDS)
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait until it and its children have ended; return its exit code."""
        self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode


@pytest.fixture
def queue_name() -> str:
    return f"worker-process-{uuid4().hex}"


@pytest.fixture
def start(tmp_path, sns_sqs_server, queue_name) -> Iterator[Callable[..., Command]]:
    """Start ``melange worker`` with these options on the application, and kill what is left at the end."""
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "half_crashing.py").write_text(HALF_CRASHING)
    (tmp_path / "in_memory.py").write_text(IN_MEMORY)
    (tmp_path / "mistaken.py").write_text("import nowhere_to_be_found\n")
    commands = []

    with (tmp_path / "log").open("ab") as log:

        def start_command(*options: str, target: str = "application:consumer", program: list[str] = MODULE):
            environment = {"AWS_ENDPOINT_URL": sns_sqs_server, "QUEUE": queue_name}
            command = Command([*program, "worker", target, *options], tmp_path, environment, log)
            commands.append(command)
            return command

        yield start_command
        for command in commands:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGKILL)
            command.process.communicate()


@pytest.fixture
def publish(driver, queue_name) -> Callable[..., None]:
    def publish_events(count: int = 1, **does: bool) -> None:
        event = {"event_type_name": "Work", "waits": False, "leaves_thread": False, "kills": False, **does}
        ExchangeMessagePublisher(queue_name, driver).publish_batch([event] * count)

    return publish_events


@pytest.fixture
def left_in_queue(driver, queue_name) -> Callable[[], int]:
    """Count the messages that can be received at once, which takes them."""

    def count() -> int:
        queue, found = driver.get_queue(queue_name), 0
        while received := driver.receive(queue, 10, 0):
            found += len(received)
        return found

    return count


@pytest.mark.parametrize(
    ("number", "program"),
    [(signal.SIGTERM, SCRIPT), (signal.SIGINT, MODULE)],
    ids=["SIGTERM-script", "SIGINT-module"],
)
def test_a_signal_under_load_stops_it_cleanly_with_nothing_left_invisible(
    start, publish, left_in_queue, number, program
) -> None:
    command = start("--concurrency", "4", program=program)
    command.wait_for(command.working_processes)
    publish(30, waits=True)
    command.wait_for(lambda: command.begun() == 4)

    command.send(number)
    command.wait_for(lambda: "stopping:" in command.log)
    command.let_go()

    assert command.end() == 0
    assert command.begun() + left_in_queue() == 30


def test_a_second_signal_ends_it_at_once(start, publish) -> None:
    command = start()
    command.wait_for(command.working_processes)
    publish(waits=True)
    command.wait_for(command.begun)
    command.send(signal.SIGTERM)
    command.wait_for(lambda: "stopping:" in command.log)

    command.send_again(signal.SIGTERM)

    assert command.end() == -signal.SIGTERM


def test_a_signal_that_comes_twice_at_once_is_one(start, publish) -> None:
    command = start()
    command.wait_for(command.working_processes)

    command.send(signal.SIGTERM)
    command.send(signal.SIGTERM)

    assert command.end() == 0


def test_a_listener_that_outlasts_the_grace_makes_it_end_with_1(start, publish) -> None:
    command = start("--grace-seconds", "1")
    command.wait_for(command.working_processes)
    publish(waits=True)
    command.wait_for(command.begun)

    command.send(signal.SIGTERM)

    assert command.end() == 1
    assert "left to redelivery" in command.log


def test_a_thread_that_a_listener_has_left_does_not_keep_it_from_ending(start, publish) -> None:
    command = start()
    command.wait_for(command.working_processes)
    publish(leaves_thread=True)
    command.wait_for(command.begun)

    command.send(signal.SIGTERM)

    assert command.end() == 0


def test_the_health_file_is_there_while_it_works(start, tmp_path) -> None:
    path = tmp_path / "health"
    command = start("--health-file", str(path))

    command.wait_for(path.exists)
    command.send(signal.SIGTERM)

    assert command.end() == 0
    assert not path.exists()


class TestSeveralProcesses:
    """One parent, and children that come and go."""

    def test_they_share_the_work_and_stop_cleanly(self, start, publish, left_in_queue) -> None:
        command = start("--processes", "2", "--concurrency", "1")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        publish(10, waits=True)
        command.wait_for(lambda: command.begun() == 2)

        command.send(signal.SIGTERM)
        command.wait_for(lambda: command.log.count("stopping:") == 2)
        command.let_go()

        assert command.end() == 0
        assert command.begun() + left_in_queue() == 10

    def test_a_signal_to_the_whole_group_is_one_signal_not_two(self, start, publish) -> None:
        command = start("--processes", "2")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        publish(waits=True)
        command.wait_for(command.begun)

        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        command.wait_for(lambda: command.log.count("stopping:") == 2)
        command.let_go()

        assert command.end() == 0

    def test_a_second_signal_ends_all_at_once(self, start, publish) -> None:
        command = start("--processes", "2")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        publish(waits=True)
        command.wait_for(command.begun)
        command.send(signal.SIGTERM)
        command.wait_for(lambda: command.log.count("stopping:") == 2)

        command.send_again(signal.SIGTERM)

        assert command.end() == 1

    def test_the_exit_code_is_the_worst_of_the_children(self, start, publish) -> None:
        command = start("--processes", "2", "--grace-seconds", "1")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        publish(waits=True)
        command.wait_for(command.begun)

        command.send(signal.SIGTERM)

        assert command.end() == 1

    def test_a_child_that_is_killed_is_replaced(self, start, publish) -> None:
        command = start("--processes", "2")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        first, second = command.working_processes()

        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGTERM)
        command.wait_for(lambda: len(command.working_processes()) == 4)
        publish()
        command.wait_for(command.begun)
        command.send(signal.SIGTERM)

        assert command.end() == 0
        assert "ended by SIGKILL: starting another" in command.log
        assert "ended with code 0: starting another" in command.log

    def test_wrong_configuration_of_all_ends_with_2(self, start) -> None:
        command = start("--processes", "2", target="mistaken:consumer")

        assert command.end() == 2
        assert "no process is left" in command.log

    def test_one_that_crashes_while_it_is_imported_does_not_stop_the_other(
        self, start, publish, tmp_path
    ) -> None:
        command = start("--processes", "2", target="half_crashing:consumer")
        command.wait_for(lambda: "ended with code 1: starting another in 1 s" in command.log)
        command.wait_for(command.working_processes)
        publish()
        command.wait_for(command.begun)

        command.send(signal.SIGTERM)
        command.end()

        assert len(set(command.working_processes())) == 1

    def test_a_message_that_kills_its_process_stops_no_other(self, start, publish) -> None:
        command = start("--processes", "2", "--concurrency", "1")
        command.wait_for(lambda: len(command.working_processes()) == 2)
        publish(kills=True)
        command.wait_for(lambda: "ended by SIGKILL: starting another" in command.log)

        publish(3)
        command.wait_for(lambda: command.begun() >= 4)
        command.send(signal.SIGTERM)

        assert command.end() == 0

    def test_children_end_when_their_parent_is_killed(self, start) -> None:
        command = start("--processes", "2")
        command.wait_for(lambda: len(command.working_processes()) == 2)

        command.send(signal.SIGKILL)

        assert command.end() == -signal.SIGKILL
        assert command.log.count("the worker has stopped") == 2

    def test_the_health_file_stands_for_all(self, start, tmp_path) -> None:
        path = tmp_path / "health"
        command = start("--processes", "2", "--health-file", str(path))
        command.wait_for(path.exists)
        first, _ = command.working_processes()

        os.kill(first, signal.SIGSTOP)  # it can't show any more that it is well
        long_ago = time.time() - 2 * STALE_SECONDS
        os.utime(tmp_path / "health.1", (long_ago, long_ago))
        command.wait_for(lambda: not path.exists())
        os.kill(first, signal.SIGCONT)
        command.wait_for(path.exists)
        command.send(signal.SIGTERM)

        assert command.end() == 0
        assert [left.name for left in tmp_path.glob("health*")] == []


def test_several_processes_refuse_a_broker_in_memory_that_each_would_have_for_itself(start) -> None:
    command = start("--processes", "2", target="in_memory:consumer")

    assert command.end() == 2
    assert "queue stock is on the in-memory driver, which several processes cannot share" in command.log


def test_a_group_answers_probes_for_all_of_its_processes(start) -> None:
    port = free_port(second_above=2)
    command = start("--processes", "2", "--health-port", f"127.0.0.1:{port}")

    def is_ready() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=DEADLINE_SECONDS) as response:
                return len(json.load(response)["processes"]) == 2
        except OSError:
            return False

    command.wait_for(is_ready)
    command.send(signal.SIGTERM)

    assert command.end() == 0
