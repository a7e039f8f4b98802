"""This code beside another commit of the repository: ``python -m benchmarks beside REVISION``.

The revision is checked out into a temporary directory. Two child processes stay alive, one imports melange from this
work tree, changes that are not committed included, the other one from the checkout. They take turns with the same work on
the in-memory driver. A ratio under 1 says that this code is faster.

This module is the program of the children too. It uses only what all revisions have: new consumers get their defaults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import melange
from benchmarks import events
from benchmarks.child import Child
from benchmarks.measuring import (
    Contender,
    Cost,
    Progress,
    Row,
    cost_per_item,
    cpu_of,
    interleaved,
    table_of_rows,
    wall_of,
)
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore, Worker
from melange.drivers.memory import InMemoryDriver

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
MESSAGES = 1_000
CONCURRENCY = 8

EVENTS: dict[str, Any] = {"dict": events.SMALL, "typed event": events.TYPED_ORDER}


def measure(revision: str, repetitions: int, progress: Progress) -> str:
    """Return the table of this work tree beside the revision."""
    with checked_out(revision) as checkout, ExitStack() as stack:
        children = {
            name: stack.enter_context(running(name, tree))
            for name, tree in (("this tree", REPOSITORY), (revision, checkout))
        }
        rows = []
        for work in works():
            costs = interleaved(
                work,
                {name: partial(cost_of, child, work) for name, child in children.items()},
                repetitions,
                progress,
            )
            ours, theirs = costs.values()
            for unit, times in (("CPU time", cpu_of), ("wall time", wall_of)):
                found = times(ours), times(theirs)
                rows.append(Row(f"{work}, {unit}", found[0], revision, found[1]))
    return table_of_rows(rows, ours="this tree")


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check the revision out into a temporary directory, which is removed at the end, after Ctrl-C too."""
    git = partial(subprocess.run, cwd=REPOSITORY)
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        if git(["git", "worktree", "add", "--quiet", "--detach", tree, revision]).returncode:
            sys.exit(f"{revision!r} could not be checked out: give a commit, a tag or a branch")
        try:
            yield tree
        finally:
            git(["git", "worktree", "remove", "--force", tree], check=True)


@contextmanager
def running(name: str, tree: Path) -> Iterator[Child]:
    """Run a child with the tree's melange, and this tree's benchmarks."""
    path = os.pathsep.join((str(tree), str(TESTS)))
    child = Child(name, [sys.executable, "-P", "-m", __name__], {**os.environ, "PYTHONPATH": path})
    try:
        imported = Path(child.answer())
        assert imported.is_relative_to(tree), f"{name} imported {imported}"
        yield child
    finally:
        child.stop()


def cost_of(child: Child, work: str) -> Cost:
    """Let the child do the work once."""
    cpu, wall = map(float, child.ask(work).split())
    return Cost(cpu, wall)


# --- in the child --------------------------------------------------------------------------------------


def main() -> None:
    """Do the work that each line of standard input names; answer with its CPU time and its wall time per message."""
    contenders = works()
    print(melange.__file__, flush=True)
    for line in sys.stdin:
        cost = contenders[line.strip()]()
        print(cost.cpu, cost.wall, flush=True)


def works() -> dict[str, Contender]:
    """Return what the children do, by its name in the table."""
    return {
        f"{work}, {kind}": contend(event)
        for kind, event in EVENTS.items()
        for work, contend in (
            ("publish", publishing),
            ("`consume_event`", consuming),
            (f"`Worker`, {CONCURRENCY} at a time", working),
        )
    }


def publishing(event: Any) -> Contender:
    """Publish one by one; consuming what was published does not count."""

    def run() -> Cost:
        with application() as (_, publisher, _), cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                publisher.publish(event)
        return cost

    return run


def consuming(event: Any) -> Contender:
    """Consume with a plain loop."""

    def run() -> Cost:
        with application() as (_, publisher, consumer):
            publisher.publish_batch([event] * MESSAGES)
            settled = 0
            with cost_per_item(MESSAGES) as cost:
                while settled < MESSAGES:
                    settled += consumer.consume_event(wait_seconds=0)
        return cost

    return run


def working(event: Any) -> Contender:
    """Consume with a worker, from its start until its last acknowledgement."""

    def run() -> Cost:
        with application() as (driver, publisher, consumer):
            publisher.publish_batch([event] * MESSAGES)
            worker = Worker(consumer, concurrency=CONCURRENCY)
            with cost_per_item(MESSAGES) as cost:
                worker.start()
                while not is_empty(driver, consumer):
                    threading.Event().wait(0.005)
        worker.stop()
        return cost

    return run


@contextmanager
def application() -> Iterator[tuple[InMemoryDriver, ExchangeMessagePublisher, ExchangeMessageConsumer]]:
    """Yield a broker and its two ends, with a listener that gets typed events as objects and does nothing."""
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "orders", "shop", driver=driver, deduplication=MemoryDeduplicationStore()
        )
        consumer.listener(events.OrderPlaced, "ProductAdded", name="nothing")(lambda event: None)
        yield driver, ExchangeMessagePublisher("shop", driver), consumer


def is_empty(driver: InMemoryDriver, consumer: ExchangeMessageConsumer) -> bool:
    """Return True if the last message was acknowledged."""
    depth = driver.measure_queue(consumer.queue)
    return not depth.visible and not depth.in_flight


if __name__ == "__main__":
    main()
