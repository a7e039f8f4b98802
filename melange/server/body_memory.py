"""How much memory the bodies of requests take."""

from __future__ import annotations

import math
import threading


class BodyMemory:
    """The memory of bodies from their receipt to their answer, on all connections together. Thread-safe.

    Args:
        max_bytes: bodies are refused while others take more than this; None means no limit.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Count bytes that were received; return False if they are too many, and are not counted."""
        with self._lock:
            if self._taken + size > self._max_bytes:
                return False
            self._taken += size
            return True

    def release(self, size: int) -> None:
        """Stop counting these bytes."""
        with self._lock:
            self._taken -= size
