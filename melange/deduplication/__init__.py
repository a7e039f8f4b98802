"""Running each listener once per message: the store protocol and the stores."""

from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)
from melange.deduplication.memory import MemoryDeduplicationStore

__all__ = ["ClaimRefusal", "Claimed", "DeduplicationKey", "DeduplicationStore", "MemoryDeduplicationStore"]
