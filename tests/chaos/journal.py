"""What workers do, written down so that no crash can lose or tear a line.

Each process appends to a file of its own, one write for each record. Times are of the machine's monotonic
clock, which all processes share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

POLLED = "polled"
RECEIVED = "received"
CLAIMED = "claimed"
BEGAN = "began"
FAILED = "failed"
EFFECT = "effect"
COMPLETED = "completed"
ACKNOWLEDGED = "acknowledged"

COMMITTED = "committed"
ROLLED_BACK = "rolled back"
PUBLISHED = "published"
MARKED = "marked"

PROCESS_NUMBER = "MELANGE_CHAOS_PROCESS"
"""The environment variable with the number of the process, which names its journal."""


class Record(NamedTuple):
    """One thing that a worker did.

    ``at`` is when it was known to have happened, ``asked_at`` when the store or the broker was asked for it.
    ``process_number`` is the harness's own: the system gives the id of a process that has ended to another one.
    ``token`` is that of the claim, the receive count, or the time at which a relay has read what it publishes.
    """

    at: float
    process_number: int
    kind: str
    message_id: str = ""
    listener: str = ""
    token: str = ""
    asked_at: float = 0.0


class Journal:
    """The file of one process; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._process_number = int(os.environ.get(PROCESS_NUMBER, os.getpid()))
        path = directory / f"{self._process_number}.journal"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(
        self, kind: str, message_id: str = "", listener: str = "", token: str = "", asked_at: float = 0.0
    ) -> None:
        """Append a record; it is there, whatever becomes of the process, when this returns."""
        record = Record(time.monotonic(), self._process_number, kind, message_id, listener, token, asked_at)
        os.write(self._file, json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        """Close the file, where the process goes on without."""
        os.close(self._file)


def read_journals(directory: Path) -> list[Record]:
    """Return the records of all processes in the order of their times."""
    return sorted(record for path in directory.glob("*.journal") for record in _read(path))


def _read(path: Path) -> Iterator[Record]:
    for line in path.read_text().splitlines():
        yield Record(*json.loads(line))
