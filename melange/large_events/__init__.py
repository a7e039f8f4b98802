"""Events that are larger than their topic or queue allows: the body in S3, and a pointer in the message.

The pointer has AWS's own format, so that the extended clients for Java and Python understand it. See
docs/large-events.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange.large_events.driver import LargeEvents
from melange.large_events.stores import DirectoryStore, MemoryStore, PayloadMissingError, PayloadStore

__all__ = ["DirectoryStore", "LargeEvents", "MemoryStore", "PayloadMissingError", "PayloadStore", "S3Store"]

if TYPE_CHECKING:
    from melange.large_events.s3 import S3Store
else:

    def __getattr__(name: str) -> object:
        if name != "S3Store":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from melange.large_events.s3 import S3Store  # noqa: PLC0415 - it imports boto3

        return S3Store
