"""Child processes that work when they are told, and what a process has used.

``Child`` runs any program, in any environment, and speaks with it in lines. ``spawned`` runs a function of these benchmarks.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path


class Child:
    """A program that stays alive, reads commands from its standard input and writes answers, each a line."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
        )

    def tell(self, command: str) -> None:
        """Send a command that has no answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Send a command; return its answer."""
        self.tell(command)
        return self.answer()

    def answer(self) -> str:
        """Return the next line.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.name} has ended")
        return line

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def spawned(serve: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run a function in a process of its own; yield the other end of the connection that is its first argument."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, *arguments), daemon=True
    )
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def orders(connection: Connection) -> Iterator[object]:
    """Yield what is sent to a spawned function, until the other end is closed."""
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time that a process has used so far, with all its threads; exact to 10 ms."""
    ticks = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(process_id: int) -> int:
    """Return the memory of a process."""
    pages = Path(f"/proc/{process_id}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
