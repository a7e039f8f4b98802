"""Collecting the declarations of a program without calls to its broker; ``melange.topology`` builds its model of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_collected: list[object] | None = None


@contextmanager
def collecting() -> Iterator[list[object]]:
    """Collect the publishers, consumers and outbox routes that the whole process creates in the block.

    Consumers created meanwhile declare nothing, and cannot consume. One block at a time: others wait.
    """
    global _collected  # noqa: PLW0603 - programs create consumers in threads too, so a context variable would not do
    with _lock:
        collected: list[object] = []
        _collected = collected
        try:
            yield collected
        finally:
            _collected = None


def add_to_collection(declared: object) -> bool:
    """Add an object to the open collection; return False if none is open."""
    if _collected is None:
        return False
    _collected.append(declared)
    return True


def are_collected() -> bool:
    """Return True if a collection is open, so that nothing may call the broker."""
    return _collected is not None
