"""A file that exists while a worker or relay is ready, for probes that can only read files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

TOUCH_EVERY_SECONDS = 1.0
STALE_SECONDS = 10.0


class Health(Protocol):
    """Of a worker or a relay."""

    @property
    def ready(self) -> bool:
        """True while it does its work."""
        ...


class HasHealth(Protocol):
    """A worker or a relay."""

    def health(self) -> Health:
        """Return its current health."""
        ...


class HealthFile:
    """A file that exists and is touched every second while a worker or relay is ready.

    A process that is killed or hangs leaves it behind, so a probe checks its age too. The file is empty, so
    that no reader can see half of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def of_process(self, number: int) -> HealthFile:
        """Return the file of one of several processes, beside this one."""
        return HealthFile(self._path.with_name(f"{self._path.name}.{number}"))

    def show(self, ready: bool) -> None:
        """Touch the file when ready, remove it when not; a file that can't be written is logged once."""
        try:
            if ready:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.error("the health file can't be kept: %s", error)
            self._failed = True

    def is_fresh(self) -> bool:
        """Return True if the file was touched in the last few seconds."""
        try:
            return time.time() - self._path.stat().st_mtime < STALE_SECONDS
        except OSError:
            return False


@contextmanager
def health_shown(of: HasHealth, file: HealthFile | None) -> Iterator[None]:
    """Keep ``file`` up to date inside the block, and remove it afterwards."""
    if file is None:
        yield
        return
    stopped = threading.Event()

    def keep_showing() -> None:
        while not stopped.is_set():
            file.show(of.health().ready)
            stopped.wait(TOUCH_EVERY_SECONDS)

    thread = threading.Thread(target=keep_showing, name="melange-health-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        file.show(ready=False)
