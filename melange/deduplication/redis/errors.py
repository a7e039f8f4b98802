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
    (AuthenticationError, None, "Redis refused the user name or password"),
    (NoPermissionError, "user executing the script", "Redis refuses this user a permission"),
    (BusyLoadingError, None, "Redis is still loading its data"),
    (MaxConnectionsError, None, "every connection of the client's pool to Redis is taken"),
    (ReadOnlyError, "-READONLY", "Redis is a replica here, which takes no marks: name the primary"),
    (OutOfMemoryError, "-OOM", "the memory of Redis is full"),
    (AskError, None, "this Redis is one node of a cluster: pass a redis.cluster.RedisCluster instead"),
    (TimeoutError, None, "Redis did not answer in time"),
    (ConnectionError, None, "Redis can't be reached"),
    (RedisClusterException, None, "the Redis cluster can't be reached"),
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
            return f"{explanation} ({error})"
    return f"Redis failed: {error}"
