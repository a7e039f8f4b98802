"""What errors of Redis mean."""

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

from melange.errors import DeduplicationError, shortened

# The first match is used, so subclasses come before their bases. The code is for failures within a script:
# there Redis 6 has it only as a part of the text.
_EXPLANATIONS: tuple[tuple[type[Exception], str | None, str], ...] = (
    (AuthenticationError, None, "Redis refused the user name or password"),
    (NoPermissionError, "user executing the script", "Redis refuses this user a permission"),
    (BusyLoadingError, None, "Redis is still loading its data"),
    (MaxConnectionsError, None, "every connection of the client's pool to Redis is taken"),
    (ReadOnlyError, "-READONLY", "this Redis is a replica, which cannot store marks: use the primary"),
    (OutOfMemoryError, "-OOM", "the memory of Redis is full"),
    (AskError, None, "this Redis is one node of a cluster: pass a redis.cluster.RedisCluster instead"),
    (TimeoutError, None, "Redis did not answer in time"),
    (ConnectionError, None, "Redis can't be reached"),
    (RedisClusterException, None, "the Redis cluster can't be reached"),
)
_MOST_CHARACTERS = 200


@contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for each exception of the redis library in the block."""
    try:
        yield
    # A cluster's own exceptions are not RedisErrors.
    except (RedisError, RedisClusterException, OSError) as error:
        raise DeduplicationError(f"can't {action}: {_explanation(error)}") from error


def _explanation(error: Exception) -> str:
    text = str(error)
    for error_class, code, explanation in _EXPLANATIONS:
        if isinstance(error, error_class) or (code and code in text):
            return f"{explanation} ({_quoted(text)})"
    return f"Redis failed: {_quoted(text)}"


def _quoted(text: str) -> str:
    # Redis quotes the arguments of a command that it does not have, the password of a greeting among them.
    return shortened(text.partition(", with args beginning with")[0], _MOST_CHARACTERS)
