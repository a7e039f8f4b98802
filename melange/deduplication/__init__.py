"""Running each listener once per message: the store protocol and the stores."""

from typing import TYPE_CHECKING

from melange.deduplication.base import (
    NO_DEDUPLICATION,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)
from melange.deduplication.memory import MemoryDeduplicationStore

__all__ = [
    "NO_DEDUPLICATION",
    "ClaimRefusal",
    "Claimed",
    "DeduplicationKey",
    "DeduplicationStore",
    "MemoryDeduplicationStore",
    "RedisDeduplicationStore",
]

if TYPE_CHECKING:
    from melange.deduplication.redis_store import RedisDeduplicationStore
else:  # hidden from type checkers, which would take any name for one that may exist

    def __getattr__(name: str) -> object:
        # Only programs that use the Redis store import its client library.
        if name == "RedisDeduplicationStore":
            from melange.deduplication.redis_store import RedisDeduplicationStore  # noqa: PLC0415

            return RedisDeduplicationStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
