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

# The first that fits says it, so subclasses come before their bases. The code is for what fails within a script:
# there Redis 6 gives it as a part of the text only.
_EXPLANATIONS: tuple[tuple[type[Exception], str | None, str], ...] = (
    (AuthenticationError, None, "it refused the user name or password"),
    (NoPermissionError, "user executing the script", "this user lacks a permission"),
    (BusyLoadingError, None, "it is still loading its data"),
    (MaxConnectionsError, None, "every connection of this client's pool is taken"),
    (ReadOnlyError, "-READONLY", "it is a replica, which keeps no marks of its own: name the primary"),
    (OutOfMemoryError, "-OOM", "its memory is full"),
    (AskError, None, "it is one node of a cluster: pass a redis.cluster.RedisCluster instead"),
    (TimeoutError, None, "it did not answer in time"),
    (ConnectionError, None, "it can't be reached"),
    (RedisClusterException, None, "its cluster can't be reached"),
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
    for error_class, code, explanation in _EXPLANATIONS:
        if isinstance(error, error_class) or (code and code in str(error)):
            return f"Redis: {explanation} ({error})"
    return f"Redis failed: {error}"
