"""What goes wrong with Redis, said in a sentence."""

# MERGED DOCS: The client to use: given, of a SimpleCache, or made from a URL.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

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

from melange.errors import ConfigurationError, DeduplicationError

DEFAULT_NAMESPACE = "melange"
HEALTH_CHECK_SECONDS = 30

Client: TypeAlias = Redis | RedisCluster
RedisSource: TypeAlias = str | Client | SimpleCache


class Connected(NamedTuple):
    """A client, which may not have connected yet, and the namespace that its keys belong to."""

    client: Client
    namespace: str


def connected(redis: RedisSource, timeout_seconds: float) -> Connected:
    """Return the client that ``redis`` names; nothing is sent yet.

    Raises:
        ConfigurationError: ``redis`` is none of what is taken, or a URL that can't be read.
    """
    if isinstance(redis, str):
        return Connected(_from_url(redis, timeout_seconds), DEFAULT_NAMESPACE)
    # Pipelines are clients by inheritance, and answer with themselves.
    if isinstance(redis, Client) and not isinstance(redis, Pipeline | ClusterPipeline):
        return Connected(redis, DEFAULT_NAMESPACE)
    if isinstance(redis, SimpleCache):
        return _from_cache(redis)
    raise ConfigurationError(
        "redis has to be a URL (redis://, rediss://, unix://), a redis.Redis (of sentinels: master_for(...)), "
        f"a redis.cluster.RedisCluster or a redis_cache.SimpleCache, not {_described(redis)}"
    )


def _from_url(url: str, timeout_seconds: float) -> Redis:
    """Return a client that fails fast: a listener is waiting, and whoever calls knows how to wait better."""
    try:
        client = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            health_check_interval=HEALTH_CHECK_SECONDS,
            # Once more at once, over a new connection, for the old one may have ended with a restart. What was
            # sent twice recognises itself. A timeout is not tried again: it took long enough.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            # An old server's answer to version 3's greeting would quote the password.
            protocol=2,
        )
        # Options of the URL that no connection knows are found here, and not with the first message.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        # Neither the URL nor the cause is shown: the password may be anywhere in what can't be read.
        raise ConfigurationError(
            "this is no URL of a Redis: it looks like redis://user:password@host:6379/0 (rediss:// for TLS, "
            "unix:// for a socket), with special characters of the password as %XX"
        ) from None
    return client


def _from_cache(cache: SimpleCache) -> Connected:
    if cache.connection is None:
        raise ConfigurationError(
            "this SimpleCache has no connection and will never have one, because Redis was away when it was "
            "made: make it anew, or pass a URL, which connects when Redis is back"
        )
    return Connected(cache.connection, cache.make_key(DEFAULT_NAMESPACE))


def _described(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


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
