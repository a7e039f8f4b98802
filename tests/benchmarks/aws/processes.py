"""The stub and the contestants as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.aws import contestant
from benchmarks.child import Child, cpu_seconds
from benchmarks.measuring import Cost

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
IDLE_SECONDS = 3.0
WARM_UP_MESSAGES = 500
"""At the beginning of each turn, not counted: the other contestants' turns have emptied the processor's caches."""

ENVIRONMENTS = REPOSITORY / ".services"

_TYPE = contestant.EVENT["event_type_name"]
ATTRIBUTES = {
    "boto3": {"id": "{id}", "type": _TYPE},
    "melange": {"melange-message-id": "{id}", "melange-event-type": _TYPE},
    "fanferro": {"id": "{id}", "type": _TYPE},
    "kombu": {},
}
"""What the stub puts beside the bodies: two attributes for each."""


def environment_of(python: str) -> Path | None:
    """Return the interpreter of an environment with fanferro and melange, None if that does not install."""
    environment = ENVIRONMENTS / f"benchmarks-{python}"
    interpreter = environment / "bin" / "python"
    if not (environment / "complete").exists():
        try:
            _uv("venv", "--clear", "--python", python, environment)
            _uv("pip", "install", "--python", interpreter, "fanferro", "kombu[sqs]", "--editable", REPOSITORY)
        except subprocess.CalledProcessError:
            return None
        (environment / "complete").touch()
    return interpreter


def _uv(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *map(str, arguments)], check=True)


class Stub:
    """The stub server, seen from here."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fill(self, queue: str, count: int, library: str) -> None:
        """Put messages with ids of their own into a queue."""
        body = json.dumps(contestant.EVENT)
        self._ask(
            "/fill", {"queue_name": queue, "count": count, "body": body, "attributes": ATTRIBUTES[library]}
        )

    @contextmanager
    def distant(self, seconds: float) -> Iterator[None]:
        """Let each answer take so long in the block."""
        self._ask("/delay", seconds)
        try:
            yield
        finally:
            self._ask("/delay", 0)

    def counts(self) -> dict[str, float]:
        """Return what the stub has counted, and how long the last queue took from its filling to its last delete."""
        found: dict[str, float] = self._ask("/counts", None)
        return found

    def _ask(self, path: str, value: object) -> Any:
        data = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data)) as answer:
            return json.load(answer)


@contextmanager
def running_stub() -> Iterator[Stub]:
    """Run the stub."""
    command = [sys.executable, "-m", "benchmarks.aws.stub"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1]) as process:
        assert process.stdout is not None
        try:
            yield Stub(process.stdout.readline().strip())
        finally:
            process.kill()


class Contestant(Child):
    """A contestant's process."""

    def __init__(self, name: str, python: Path, stub: Stub) -> None:
        self._stub = stub
        self._queue = name.replace(" ", "-")
        super().__init__(name, _command(name, python, stub, self._queue), environment_variables(stub.url))
        self._is_consuming = False
        self.answer()

    def publish(self, count: int) -> Cost:
        """Publish messages; return the cost of each."""
        self.ask(f"publish {WARM_UP_MESSAGES}")
        cpu, wall = map(float, self.ask(f"publish {count}").split())
        return Cost(cpu / count, wall / count)

    def begin(self) -> None:
        """Begin to consume, and poll a queue in which nothing is."""
        self._is_consuming = True
        self.tell("consume")
        time.sleep(IDLE_SECONDS)

    def consume(self, count: int) -> Cost:
        """Consume messages until all are deleted; return the cost of each. Only what is deleted counts."""
        if not self._is_consuming:
            self._is_consuming = True
            self.tell("consume")
        self._consume(WARM_UP_MESSAGES)
        used = float(self.ask("used"))
        seconds = self._consume(count)
        return Cost((float(self.ask("used")) - used) / count, seconds / count)

    def publish_from_afar(self, count: int, network_seconds: float) -> Cost:
        """Publish as ``publish`` does, over a network that takes so long for each call."""
        with self._stub.distant(network_seconds):
            return self.publish(count)

    def consume_from_afar(self, count: int, network_seconds: float) -> Cost:
        """Consume as ``consume`` does, over a network that takes so long for each call."""
        with self._stub.distant(network_seconds):
            return self.consume(count)

    def _consume(self, count: int) -> float:
        """Let messages be consumed; return the time from the filling of the queue to the last delete."""
        before = self._stub.counts()["deleted"]
        self._stub.fill(self._queue, count, self.name.split()[0])
        while (counts := self._stub.counts())["deleted"] < before + count:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended")
            time.sleep(0.02)
        return counts["seconds"]


def start_up(name: str, python: Path, stub: Stub) -> Cost:
    """Run a process that imports, builds what it needs, publishes ten messages and ends."""
    started = time.perf_counter()
    child = Child(name, _command(name, python, stub, "cold"), environment_variables(stub.url))
    child.ask("publish 10")
    child.answer()
    wall = time.perf_counter() - started
    cpu = cpu_seconds(child.process.pid)
    child.stop()
    return Cost(cpu, wall)


def _command(name: str, python: Path, stub: Stub, queue: str) -> list[str]:
    return [str(python), str(HERE / "contestant.py"), name, stub.url, queue]


def environment_variables(url: str) -> dict[str, str]:
    """Return the environment of a contestant, in which botocore finds no files and no metadata service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": contestant.KEY,
        "AWS_SECRET_ACCESS_KEY": contestant.KEY,
        "AWS_REGION": contestant.REGION,
        "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONUNBUFFERED": "1",
    }
