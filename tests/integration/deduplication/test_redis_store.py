"""The Redis store keeps the contract of deduplication stores, however it comes by its connection."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis
from redis.connection import parse_url
from redis_cache import SimpleCache

from melange import RedisDeduplicationStore
from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.testing.deduplication_contract import DeduplicationStoreContract
from services.redis import run_with_sentinel


class RedisContract(DeduplicationStoreContract):
    short_lease_seconds = 0.1

    def make_namespace(self) -> str:
        return f"test-{uuid.uuid4()}"


class TestByUrl(RedisContract):
    @pytest.fixture(autouse=True)
    def _redis(self, redis_url: str) -> None:
        self.url = redis_url

    def make_store(self) -> DeduplicationStore:
        return RedisDeduplicationStore(self.url, namespace=self.make_namespace())


class TestByClient(RedisContract):
    """A client that returns text instead of bytes, and encodes it in a way of its own."""

    @pytest.fixture(autouse=True)
    def _redis(self, redis_url: str) -> Iterator[None]:
        with redis.Redis.from_url(redis_url, decode_responses=True, encoding="latin-1") as self.client:
            yield

    def make_store(self) -> DeduplicationStore:
        return RedisDeduplicationStore(self.client, namespace=self.make_namespace())


class TestBySimpleCache(RedisContract):
    @pytest.fixture(autouse=True)
    def _redis(self, redis_url: str) -> Iterator[None]:
        options = parse_url(redis_url)
        self.cache = SimpleCache(
            namespace=self.make_namespace(),
            host=options.get("host"),
            port=options.get("port"),
            db=options.get("db"),
            password=options.get("password"),
        )
        yield
        self.cache.connection.close()

    def make_store(self) -> DeduplicationStore:
        return RedisDeduplicationStore(self.cache)


class TestByClusterClient(RedisContract):
    @pytest.fixture(autouse=True)
    def _redis(self, redis_cluster: redis.RedisCluster) -> None:
        self.client = redis_cluster

    def make_store(self) -> DeduplicationStore:
        return RedisDeduplicationStore(self.client, namespace=self.make_namespace())

    def test_keys_of_all_nodes_can_be_claimed_and_completed(self, store: DeduplicationStore) -> None:
        for number in range(100):
            claimed = store.claim(
                DeduplicationKey("orders", "listener", str(number), ("content",)), "token", 30
            )

            assert isinstance(claimed, Claimed)
            assert store.complete(claimed)

        sizes = self.client.dbsize(target_nodes=redis.RedisCluster.PRIMARIES)
        assert sizes >= 100


class TestBySentinelClient(RedisContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[redis.Redis]:
        with run_with_sentinel() as setup:
            yield setup.sentinel().master_for("primary")

    @pytest.fixture(autouse=True)
    def _redis(self, client: redis.Redis) -> None:
        self.client = client

    def make_store(self) -> DeduplicationStore:
        return RedisDeduplicationStore(self.client, namespace=self.make_namespace())


def test_stores_of_one_namespace_share_their_marks(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    here = RedisDeduplicationStore(redis_url, namespace=namespace)
    there = RedisDeduplicationStore(redis.Redis.from_url(redis_url), namespace=namespace)
    elsewhere = RedisDeduplicationStore(redis_url, namespace=f"{namespace}-2")

    here.complete(here.claim(key, "token", 30))

    assert there.claim(key, "other", 30) is ClaimRefusal.DONE
    assert isinstance(elsewhere.claim(key, "other", 30), Claimed)


def test_every_key_is_in_the_namespace_and_shows_no_part_of_the_message(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace)

    store.check()
    store.complete(store.claim(key, "token", 30))

    with redis.Redis.from_url(redis_url) as client:
        names = {name.decode() for name in client.scan_iter(f"{namespace}:*")}
        kept = [client.hgetall(name) for name in names - {f"{namespace}:check"}]
    assert len(kept) == 1
    parts = (*key[:3], *key.content)
    assert not any(part in text for part in parts for text in (*names, repr(kept)))


def test_marks_are_forgotten_after_the_retention(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace, retention_seconds=60)

    claimed = store.claim(key, "token", 30)
    claim_seconds = _seconds_to_live(redis_url, namespace)
    store.renew(claimed, 300)
    renewed_seconds = _seconds_to_live(redis_url, namespace)
    store.complete(claimed)
    mark_seconds = _seconds_to_live(redis_url, namespace)

    # A claim is remembered beyond its lease: its listener may finish late, and its attempt counts.
    assert 60 < claim_seconds <= 90
    assert 330 < renewed_seconds <= 360
    assert 30 < mark_seconds <= 60


def test_attempts_are_forgotten_after_the_retention(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace, retention_seconds=60)

    store.abandon(store.claim(key, "token", 300))

    assert 30 < _seconds_to_live(redis_url, namespace) <= 60


def test_a_mark_keeps_no_attempts(redis_url: str, namespace: str, key: DeduplicationKey) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace)

    store.complete(store.claim(key, "token", 30))

    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.scan_iter(f"{namespace}:*")
        assert list(client.hgetall(name)) == [b"token"]


def test_what_is_given_back_before_it_began_leaves_nothing(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace)

    store.abandon(store.claim(key, "token", 30), began=False)

    with redis.Redis.from_url(redis_url) as client:
        assert not list(client.scan_iter(f"{namespace}:*"))


def test_a_lease_of_no_length_does_not_break_the_store(
    redis_url: str, namespace: str, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(redis_url, namespace=namespace)

    store.claim(key, "token", 0)

    assert isinstance(store.claim(key, "another", 30), Claimed)


def _seconds_to_live(redis_url: str, namespace: str) -> float:
    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.scan_iter(f"{namespace}:*")
        return client.pttl(name) / 1000
