"""What the Redis store says while Redis is away, and that it recovers by itself."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import pytest
import redis
from redis_cache import SimpleCache

from melange import DeduplicationError, RedisDeduplicationStore
from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey
from services.forwarder import forwarding
from services.redis import RedisServer, run, run_with_sentinel

TIMEOUT_SECONDS = 0.5
# redis-py by itself would try for 4 s to reach a Redis that refuses connections.
PROMPTLY_SECONDS = 3.0


@pytest.fixture
def store(redis_server: RedisServer) -> RedisDeduplicationStore:
    return RedisDeduplicationStore(redis_server.url, timeout_seconds=TIMEOUT_SECONDS)


def claim(store: RedisDeduplicationStore, key: DeduplicationKey, token: str = "token") -> Claimed:
    claimed = store.claim(key, token, 30)
    assert isinstance(claimed, Claimed)
    return claimed


def every_call(store: RedisDeduplicationStore, claimed: Claimed) -> list[Callable[[], object]]:
    return [
        lambda: store.claim(claimed.key, "other", 30),
        lambda: store.renew(claimed, 30),
        lambda: store.complete(claimed),
        lambda: store.abandon(claimed),
        store.check,
    ]


def assert_fails_promptly(call: Callable[[], object], match: str) -> None:
    started = time.monotonic()
    with pytest.raises(DeduplicationError, match=match) as caught:
        call()
    assert time.monotonic() - started < PROMPTLY_SECONDS
    assert isinstance(caught.value.__cause__, redis.RedisError)


def test_a_killed_redis_is_said_promptly_by_every_call(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claimed = claim(store, key)

    redis_server.kill()

    for call in every_call(store, claimed):
        assert_fails_promptly(call, "deduplication store: Redis can't be reached")


def test_a_stalled_redis_is_said_promptly_by_every_call(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claimed = claim(store, key)

    redis_server.stall()

    for call in every_call(store, claimed):
        assert_fails_promptly(call, "Redis did not answer in time")


def test_a_stalled_redis_goes_on_with_what_it_knew(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claimed = claim(store, key)
    redis_server.stall()
    with pytest.raises(DeduplicationError):
        store.complete(claimed)

    redis_server.resume()

    assert store.complete(claimed)
    assert store.claim(key, "other", 30) is ClaimRefusal.DONE


def test_a_restarted_redis_is_used_at_once(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claim(store, key)

    # Between two calls: nobody noticed, and the scripts are gone with the connections.
    redis_server.kill()
    redis_server.start()

    assert store.complete(claim(store, key))


def test_a_redis_that_comes_back_is_used_again(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    redis_server.kill()
    with pytest.raises(DeduplicationError):
        store.check()

    redis_server.start()

    store.check()
    assert store.complete(claim(store, key))


def test_a_redis_that_keeps_nothing_loses_its_marks_and_claims_with_a_restart(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    done = key._replace(message_id="done")
    store.complete(claim(store, done))
    claimed = claim(store, key)

    redis_server.kill()
    redis_server.start()

    assert not store.complete(claimed)
    assert claim(store, done)


@pytest.mark.parametrize("lost", ["claim", "complete"])
def test_what_is_sent_twice_because_the_answer_got_lost_recognises_itself(
    redis_server: RedisServer, key: DeduplicationKey, lost: str
) -> None:
    with forwarding(redis_server.port) as way:
        store = RedisDeduplicationStore(f"redis://127.0.0.1:{way.port}")
        store.check()
        answer_is_lost = way.lose_next_answer

        if lost == "claim":
            answer_is_lost()
        claimed = claim(store, key)
        if lost == "complete":
            answer_is_lost()

        assert store.complete(claimed)


def test_a_store_that_is_made_while_redis_is_away_works_once_it_is_there(key: DeduplicationKey) -> None:
    server = RedisServer()
    store = RedisDeduplicationStore(server.url)
    with pytest.raises(DeduplicationError):
        store.claim(key, "token", 30)

    server.start()
    try:
        assert store.complete(claim(store, key))
    finally:
        server.kill()


def test_a_simple_cache_whose_redis_was_restarted_is_as_good_as_any(
    redis_server: RedisServer, key: DeduplicationKey
) -> None:
    store = RedisDeduplicationStore(SimpleCache(port=redis_server.port))
    claim(store, key)

    redis_server.kill()
    redis_server.start()

    assert store.complete(claim(store, key))


def test_a_replica_takes_no_marks_and_says_so(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claim(store, key)
    with redis_server.client() as client:
        client.replicaof("127.0.0.1", 1)

    with pytest.raises(DeduplicationError, match="Redis is a replica"):
        store.claim(key._replace(message_id="new"), "token", 30)
    with pytest.raises(DeduplicationError, match="Redis is a replica"):
        store.check()


def test_when_a_name_points_to_a_new_primary_the_store_follows(
    redis_server: RedisServer, key: DeduplicationKey
) -> None:
    with forwarding(redis_server.port) as name, run() as new_primary:
        store = RedisDeduplicationStore(f"redis://127.0.0.1:{name.port}")
        claim(store, key)
        with redis_server.client() as client:
            client.replicaof("127.0.0.1", new_primary.port)
        name.upstream_port = new_primary.port  # of new connections: those that are open stay

        with pytest.raises(DeduplicationError, match="Redis is a replica"):
            store.check()

        store.check()
        assert store.complete(claim(store, key._replace(message_id="new")))


def test_a_full_memory_is_said_and_what_is_claimed_can_still_be_completed(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claimed = claim(store, key)
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)

    with pytest.raises(DeduplicationError, match="memory of Redis is full"):
        store.check()
    with pytest.raises(DeduplicationError, match="memory of Redis is full"):
        store.claim(key._replace(message_id="new"), "token", 30)
    assert store.complete(claimed)


def test_a_wrong_password_is_said_without_showing_it(
    redis_server: RedisServer, key: DeduplicationKey
) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "the-right-one")
    store = RedisDeduplicationStore(f"redis://:sesame@127.0.0.1:{redis_server.port}")

    with pytest.raises(DeduplicationError, match="refused the user name or password") as caught:
        store.claim(key, "token", 30)

    assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_password_is_said(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "the-right-one")

    with pytest.raises(DeduplicationError, match="refused the user name or password"):
        RedisDeduplicationStore(redis_server.url).check()


def test_a_foreign_value_under_a_key_of_ours_is_an_error(
    store: RedisDeduplicationStore, redis_server: RedisServer, key: DeduplicationKey
) -> None:
    claimed = claim(store, key)
    with redis_server.client() as client:
        (name,) = client.keys()
        client.set(name, "foreign")

    with pytest.raises(DeduplicationError, match="WRONGTYPE"):
        store.complete(claimed)


def test_when_the_primary_fails_the_store_goes_on_with_its_replacement(key: DeduplicationKey) -> None:
    with run_with_sentinel() as setup:
        store = RedisDeduplicationStore(setup.sentinel().master_for("primary"))
        done = key._replace(message_id="done")
        store.complete(claim(store, done))
        setup.primary.client().wait(1, 10_000)  # until the replica has it

        setup.primary.kill()

        assert becomes_available(store, within_seconds=60)
        assert store.claim(done, "other", 30) is ClaimRefusal.DONE
        assert store.complete(claim(store, key))


def becomes_available(store: RedisDeduplicationStore, within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            store.check()
        except DeduplicationError:
            time.sleep(0.1)
        else:
            return True
    return False
