"""What goes wrong with Redis, said in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis names it so
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,  # noqa: A004
)

from melange.errors import DeduplicationError

# The first class that fits says it: subclasses come before their bases.
_EXPLANATIONS: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "it refused the user name or password"),
    (NoPermissionError, "this user lacks a permission"),
    (BusyLoadingError, "it is still loading its data"),
    (MaxConnectionsError, "every connection of this client's pool is taken"),
    (ReadOnlyError, "it is a replica, which keeps no marks of its own: name the primary"),
    (OutOfMemoryError, "its memory is full"),
    (AskError, "it is one node of a cluster: pass a redis.cluster.RedisCluster instead"),
    (TimeoutError, "it did not answer in time"),
    (ConnectionError, "it can't be reached"),
    (RedisClusterException, "its cluster can't be reached"),
)


@contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for whatever the redis library raises in the block."""
    try:
        yield
    # A cluster's own exceptions are no RedisErrors.
    except (RedisError, RedisClusterException, OSError) as error:
        raise DeduplicationError(f"can't {action}: {_explanation(error)}") from error


def _explanation(error: Exception) -> str:
    for error_class, explanation in _EXPLANATIONS:
        if isinstance(error, error_class):
            return f"Redis: {explanation} ({error})"
    return f"Redis failed: {error}"
