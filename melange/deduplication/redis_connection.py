"""The connection to Redis, of stores and rate limits: its client, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.cluster import ClusterPipeline
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
from redis.retry import Retry
from redis_cache import SimpleCache  # type: ignore[import-untyped]

from melange.errors import ConfigurationError, DeduplicationError, shortened

DEFAULT_NAMESPACE = "melange"
HEALTH_CHECK_SECONDS = 30

Client: TypeAlias = Redis | RedisCluster
RedisSource: TypeAlias = str | Client | SimpleCache


class Connected(NamedTuple):
    """A client, perhaps not connected yet, and the namespace of its keys."""

    client: Client
    namespace: str


def connected(redis: RedisSource, timeout_seconds: float) -> Connected:
    """Return the client for ``redis``; send nothing yet.

    Raises:
        ConfigurationError: ``redis`` has an unsupported type, or is a URL that cannot be read.
    """
    if isinstance(redis, str):
        return Connected(_from_url(redis, timeout_seconds), DEFAULT_NAMESPACE)
    # Pipelines inherit from clients, and return themselves from each command.
    if isinstance(redis, Client) and not isinstance(redis, Pipeline | ClusterPipeline):
        return Connected(redis, DEFAULT_NAMESPACE)
    if isinstance(redis, SimpleCache):
        return _from_cache(redis)
    raise ConfigurationError(
        "redis has to be a URL (redis://, rediss://, unix://), a redis.Redis (of sentinels: master_for(...)), "
        f"a redis.cluster.RedisCluster or a redis_cache.SimpleCache, not {_described(redis)}"
    )


def _from_url(url: str, timeout_seconds: float) -> Redis:
    """Return a client that fails fast: a listener is waiting, and the consumer has a better way to wait."""
    try:
        _require_no_part_of_a_password_elsewhere(url)
        client = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            health_check_interval=HEALTH_CHECK_SECONDS,
            # One retry at once, over a new connection: the old one may have ended with a restart. A step that is
            # sent twice is recognised by its token. A timeout is not retried: it took long enough.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            # An old server answers the greeting of protocol 3 by quoting the password.
            protocol=2,
        )
        # Unknown options of the URL are found here, and not with the first message.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        # The URL and the cause are not shown: an unreadable URL may have the password anywhere.
        raise ConfigurationError(
            "this is not a URL of a Redis: write redis://user:password@host:6379/0 (rediss:// for TLS, "
            "unix:// for a socket), with special characters of the password as %XX"
        ) from None
    return client


def _require_no_part_of_a_password_elsewhere(url: str) -> None:
    """Raise ``ValueError`` when a password with a ``/``, ``?`` or ``#`` ended the host, as redis-py reads it.

    Of ``redis://user:p@ss/word@host/0`` it takes ``ss`` for the host and ignores the rest: its errors would name that.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        is_complete = parts.hostname is None
    else:
        rest = f"{parts.path}?{parts.query}"
        is_complete = re.fullmatch(r"/?[0-9]*/?", parts.path) is not None and not (
            "@" in parts.netloc and "@" in rest
        )
    if not is_complete or parts.fragment:
        raise ValueError("a part of the URL stands where it has no meaning")


def _from_cache(cache: SimpleCache) -> Connected:
    if cache.connection is None:
        raise ConfigurationError(
            "this SimpleCache has no connection and will never have one, because Redis was unavailable when it was "
            "created: create it again, or pass a URL, which connects when Redis is back"
        )
    return Connected(cache.connection, cache.make_key(DEFAULT_NAMESPACE))


def _described(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


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

# A cluster's own exceptions are not RedisErrors.
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""What calls of a client raise."""


@contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for each exception of the redis library in the block."""
    try:
        yield
    except REDIS_ERRORS as error:
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
