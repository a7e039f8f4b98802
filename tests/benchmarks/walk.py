"""The way of one message through the code, from ``publish`` to its acknowledgement: ``python -m benchmarks walk``.

Every function of melange that is entered is noted, in all threads, after a first message has warmed everything up. The
table counts functions, files and changes from one file to another; with ``--in-order`` the walk itself follows.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import melange
from benchmarks.sns_sqs import session
from melange import (
    EventMessage,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
    Worker,
)
from melange.drivers.aws import AwsDriver
from melange.drivers.base import MessagingDriver
from melange.drivers.memory import InMemoryDriver

PACKAGE = Path(melange.__file__).parent
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class ProductAdded(EventMessage):
    """A small typed event."""

    product_id: int
    name: str


DICT = {"event_type_name": "ProductAdded", "product_id": 1, "name": "Coolers"}
TYPED = ProductAdded(1, "Coolers")


class Walk:
    """The functions of melange in the order in which they were entered."""

    def __init__(self) -> None:
        self.steps: list[CodeType] = []
        self._is_noting = False

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Note what is entered in the block, in threads that start in it too."""

        def note(frame: FrameType, event: str, _argument: object) -> None:
            if self._is_noting and event == "call" and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                self.steps.append(frame.f_code)

        self._is_noting = True
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            yield
        finally:
            self._is_noting = False  # threads keep their profilers
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Note nothing of the calling thread in the block."""
        noting = sys.getprofile()
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(noting)

    @property
    def functions(self) -> int:
        """How many different functions were entered."""
        return len(set(self.steps))

    @property
    def files(self) -> list[str]:
        """The files, in the order in which they were entered first."""
        return list(dict.fromkeys(_file_of(step) for step in self.steps))

    @property
    def changes(self) -> int:
        """How often one file called into another."""
        files = [_file_of(step) for step in self.steps]
        return sum(one != other for one, other in itertools.pairwise(files))


def print_walks(endpoint_url: str, *, in_order: bool) -> None:
    """Print the table, and with ``in_order`` each walk."""
    walks: dict[str, Walk] = {}
    for name, event in (("dict", DICT), ("typed event", TYPED)):
        with InMemoryDriver() as driver:
            walks[f"memory, `consume_event`, {name}"] = consumed(driver, event)
        walks[f"memory, `Worker`, {name}"] = worked(InMemoryDriver, event)
    with AwsDriver(session=session(), endpoint_url=endpoint_url) as driver:
        walks["aws, `consume_event`, dict"] = consumed(driver, DICT)
    walks["aws, `Worker`, dict"] = worked(
        lambda: AwsDriver(session=session(), endpoint_url=endpoint_url), DICT
    )
    print("| path | functions | files | changes of file |\n|---|---|---|---|")
    for name, walk in walks.items():
        print(f"| {name} | {walk.functions} | {len(walk.files)} | {walk.changes} |")
    if in_order:
        for name, walk in walks.items():
            print(f"\n## {name}\n")
            file = ""
            for step in dict.fromkeys(walk.steps):
                if _file_of(step) != file:
                    file = _file_of(step)
                    print(f"- {file}")
                print(f"    - {step.co_qualname}")


def consumed(driver: MessagingDriver, event: dict[str, object] | EventMessage) -> Walk:
    """Return the walk of one event that ``consume_event`` consumes."""
    publisher, consumer, _ = _both_ends(driver, event)
    walk = Walk()
    publisher.publish(event)
    consumer.consume_event()
    with walk.traced():
        publisher.publish(event)
        consumer.consume_event()
    return walk


def worked(make_driver: Callable[[], MessagingDriver], event: dict[str, object] | EventMessage) -> Walk:
    """Return the walk of one event that a worker consumes; its threads are traced from their start."""
    walk = Walk()
    with make_driver() as driver:
        publisher, consumer, seen = _both_ends(driver, event)
        worker = Worker(consumer, concurrency=1, grace_seconds=6)
        with walk.traced():
            worker.start()
            with walk.pausing():
                _until(lambda: worker.health().ready)
            for count in (1, 2):
                walk.steps.clear()
                publisher.publish(event)
                with walk.pausing():  # this thread only looks on
                    _until(lambda: len(seen) == count and not worker.health().queues[0].in_flight)  # noqa: B023
        worker.stop()
    return walk


def _both_ends(
    driver: MessagingDriver, event: object
) -> tuple[ExchangeMessagePublisher, ExchangeMessageConsumer, list[object]]:
    publisher = ExchangeMessagePublisher("walk", driver)
    consumer = ExchangeMessageConsumer("walk", "walk", driver=driver, queue=QueueOptions(wait_seconds=1))
    seen: list[object] = []
    event_type = type(event) if isinstance(event, EventMessage) else "ProductAdded"
    consumer.listener(event_type, name="listener")(seen.append)
    return publisher, consumer, seen


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the message did not arrive")
        time.sleep(0.005)


def _file_of(step: CodeType) -> str:
    return str(Path(step.co_filename).relative_to(PACKAGE))
