"""What a Redis store can be made from; nothing is connected to."""

from __future__ import annotations

import math
import traceback
from types import SimpleNamespace

import pytest
import redis
import redis.asyncio
from redis_cache import SimpleCache

import melange
from melange import ConfigurationError, DeduplicationError, RedisDeduplicationStore
from melange.deduplication.redis_connection import connected, mapped_errors

CLIENT = redis.Redis()


def cache_of(connection: redis.Redis | None) -> SimpleCache:
    """Return what ``SimpleCache(namespace="shop")`` would be with this connection."""
    cache = SimpleCache.__new__(SimpleCache)
    cache.prefix = "shop"
    cache.connection = connection
    return cache


def connection_options(url: str) -> dict[str, object]:
    return connected(url, 2.0).client.connection_pool.connection_kwargs


def test_user_password_host_and_database_are_taken_from_the_url() -> None:
    options = connection_options("redis://app:p%40ss%2Fword@cache.example:6380/3")

    assert options["username"] == "app"
    assert options["password"] == "p@ss/word"
    assert (options["host"], options["port"], options["db"]) == ("cache.example", 6380, 3)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost:6379/3",
        "redis://:p@ss@localhost/3",
        "redis://localhost?password=p@ss&db=3",
        "redis://[::1]:6379/0?protocol=2",
        "unix:///run/redis@1.sock?db=3",
        "unix://app:p%40ss@/run/redis.sock",
    ],
)
def test_urls_that_redis_reads_as_they_are_meant_are_taken(url: str) -> None:
    assert isinstance(connected(url, 2.0).client, redis.Redis)


def test_the_arguments_of_a_command_that_redis_does_not_have_are_not_quoted() -> None:
    error = "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `app`, `sesame`, "

    with pytest.raises(DeduplicationError, match="HELLO") as caught, mapped_errors("claim"):
        raise redis.ResponseError(error)

    assert "sesame" not in str(caught.value)


def test_what_redis_says_is_quoted_on_one_line_and_cut() -> None:
    with pytest.raises(DeduplicationError) as caught, mapped_errors("claim"):
        raise redis.ResponseError(f"\x1b[31m red\n{'x' * 10_000}")

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_rediss_is_tls_that_checks_the_certificate() -> None:
    client = connected("rediss://cache.example", 2.0).client

    assert client.connection_pool.connection_class is redis.SSLConnection
    connection = client.connection_pool.make_connection()
    assert connection.cert_reqs == "required" or connection.cert_reqs.name == "CERT_REQUIRED"
    assert connection.check_hostname


def test_options_of_the_url_come_before_ours() -> None:
    assert connection_options("redis://cache.example?socket_timeout=7")["socket_timeout"] == 7


def test_a_client_is_used_as_it_is() -> None:
    assert connected(CLIENT, 2.0).client is CLIENT


def test_a_simple_cache_gives_its_connection_and_namespace() -> None:
    client, namespace = connected(cache_of(CLIENT), 2.0)

    assert client is CLIENT
    assert namespace == "SimpleCache-shop:melange"


def test_a_simple_cache_that_was_made_while_redis_was_away_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no connection and will never have one"):
        RedisDeduplicationStore(cache_of(None))


@pytest.mark.parametrize(
    "source",
    [
        None,
        6379,
        b"redis://localhost",
        CLIENT.pipeline(),
        redis.asyncio.Redis(),
        redis.Sentinel([]),
        SimpleNamespace(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_anything_else_is_refused_with_what_is_taken(source: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"has to be a URL.*RedisCluster or a redis_cache.SimpleCache, not a"
    ):
        RedisDeduplicationStore(source)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:sesame@localhost",
        "redis://:ses/ame@localhost",  # a slash ends the host, so "ses" is read as a port
        "redis://:ses?ame=sesame@localhost",
        "redis://:sesame@localhost:port",
        "redis://app:s@same/ame@localhost/0",  # redis-py takes "same" for the host, and ignores the rest
        "redis://app:s@same?ame@localhost",
        "redis://app:s@same?db=1&ame=@localhost",
        "redis://app:s@same#ame@localhost",
        "redis://app:6379/ame@localhost",
        "rediss://app:s@same/1@localhost",
        "unix://app:s@same/ame@/run/redis.sock",
        "unix://app:sesame/ame@/run/redis.sock",
        "redis://:sesame@localhost?no_such_option=1",
        "redis://:sesame@localhost?socket_timeout=soon",
        "rediss://:sesame@localhost?ssl_cert_reqs=sesame",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not a URL of a Redis") as caught:
        RedisDeduplicationStore(url)

    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__)
    assert "ame" not in shown.replace("name", "")
    assert caught.value.__suppress_context__


def test_the_store_shows_no_password() -> None:
    store = RedisDeduplicationStore("redis://app:sesame@localhost")

    assert "sesame" not in f"{store!r} {vars(store)!r}"


@pytest.mark.parametrize("retention_seconds", [0, -1, math.inf, math.nan])
def test_a_retention_that_cannot_be_is_refused(retention_seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="retention_seconds"):
        RedisDeduplicationStore(CLIENT, retention_seconds=retention_seconds)


@pytest.mark.parametrize("timeout_seconds", [0, -1, math.inf, math.nan, "2", None])
def test_a_time_limit_that_cannot_be_is_refused(timeout_seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        RedisDeduplicationStore("redis://localhost", timeout_seconds=timeout_seconds)


class LostAfterTheWrite(redis.Redis):
    """A client that writes, and then loses its connection."""

    def evalsha(self, *arguments: object) -> int:
        return 1

    def info(self, *arguments: object) -> dict[str, object]:
        raise BrokenPipeError


def test_a_connection_that_is_lost_after_the_check_is_not_the_caller_s_error() -> None:
    RedisDeduplicationStore(LostAfterTheWrite()).check()


def test_the_store_is_found_where_the_others_are() -> None:
    assert melange.RedisDeduplicationStore is melange.deduplication.RedisDeduplicationStore


@pytest.mark.parametrize("module", [melange, melange.deduplication])
def test_names_that_do_not_exist_are_still_an_error(module: object) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018 - looking it up is what fails
