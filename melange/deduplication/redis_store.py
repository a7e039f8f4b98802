"""A deduplication store in Redis, for consumers in several processes.

Its atomic steps are Lua scripts. Each deduplication key is one hash, in one of three states:

- claimed: ``token``, ``leased_until`` (milliseconds by the server's clock) and ``attempts``;
- free, after a run that failed: ``attempts`` alone;
- done: ``token`` alone, of the claim that was completed.

The hash of a claim lives longer than the lease: a listener that finishes late can still complete, and the attempt of a
process that died stays counted.

Every script touches one key, so that it runs on any cluster.
"""

from __future__ import annotations

import hashlib
import logging
import math
from typing import NamedTuple

from redis import Redis, RedisCluster
from redis.exceptions import NoScriptError

from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)
from melange.deduplication.redis_connection import REDIS_ERRORS, Client, RedisSource, connected, mapped_errors
from melange.errors import ConfigurationError, DeduplicationError, is_number

logger = logging.getLogger(__name__)

_BUSY, _DONE = -1, -2
"""Refusals of ``_CLAIM``; otherwise it answers with the number of the attempt."""

_REFUSALS = {_BUSY: ClaimRefusal.BUSY, _DONE: ClaimRefusal.DONE}


class _Script(NamedTuple):
    """A Lua script, and the name under which Redis keeps it."""

    text: str
    sha: str


def _script(text: str) -> _Script:
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# An attempt that was forgotten while its claim was held counts as the first when the same claim is sent again.
_CLAIM = _script(
    f"""local token, lease_ms, kept_ms = unpack(ARGV)
{_NOW}
local holder, leased_until, attempts = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until', 'attempts'))
if holder and not leased_until then
    return {_DONE}
end
if holder and holder ~= token and tonumber(leased_until) > now then
    return {_BUSY}
end
attempts = tonumber(attempts or 0)
if holder ~= token or attempts == 0 then
    attempts = attempts + 1
end
redis.call('HSET', KEYS[1], 'token', token, 'leased_until', now + lease_ms, 'attempts', attempts)
redis.call('PEXPIRE', KEYS[1], lease_ms + kept_ms)
return attempts
"""
)

_COMPLETE = _script(
    """local token, kept_ms = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'token') ~= token then
    return 0
end
redis.call('HDEL', KEYS[1], 'leased_until', 'attempts')
redis.call('PEXPIRE', KEYS[1], kept_ms)
return 1
"""
)

_ABANDON = _script(
    """local token, kept_ms, taken_back = unpack(ARGV)
local holder, leased_until, attempts = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until', 'attempts'))
if holder ~= token or not leased_until then
    return 0
end
attempts = tonumber(attempts or 0) - taken_back
if attempts <= 0 then
    redis.call('DEL', KEYS[1])
else
    redis.call('HDEL', KEYS[1], 'token', 'leased_until')
    redis.call('HSET', KEYS[1], 'attempts', attempts)
    redis.call('PEXPIRE', KEYS[1], kept_ms)
end
return 1
"""
)
"""``taken_back`` is the number of attempts that do not count: 0, or 1 if the listener was never called."""

_FORGET_ATTEMPTS = _script("return redis.call('HDEL', KEYS[1], 'attempts')\n")

_RENEW = _script(
    f"""local token, lease_ms, kept_ms = unpack(ARGV)
{_NOW}
local holder, leased_until = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until'))
if holder ~= token or not leased_until then
    return 0
end
redis.call('HSET', KEYS[1], 'leased_until', now + lease_ms)
redis.call('PEXPIRE', KEYS[1], lease_ms + kept_ms)
return 1
"""
)

_CHECK = _script(
    """redis.call('SET', KEYS[1], '', 'PX', 1000)
return 1
"""
)
"""Writes, so that a replica, a full memory and a missing permission are found too."""


class RedisDeduplicationStore(DeduplicationStore):
    """Keeps marks and attempts in Redis 6 or newer, for the consumers of any number of processes.

    ``redis`` is a URL (``redis://``, ``rediss://``, ``unix://``), a client of redis-py (``redis.Redis``, a
    sentinel's ``master_for(...)``, ``redis.cluster.RedisCluster``), or a ``redis_cache.SimpleCache``, of which
    the connection and the key namespace are used. A client is used unchanged: give it short timeouts and few
    retries, because with redis-py's defaults a call may last a minute. A client from a URL connects with its first
    command, waits at most ``timeout_seconds`` for an answer, and retries once, at once, if its connection was
    closed.

    Stores of one ``namespace`` share their marks: by default all of one Redis, or of one SimpleCache. Marks
    and attempts are kept for ``retention_seconds``, by default as long as a message can come back. Each takes about
    220 bytes in Redis. If Redis loses marks (a restart without persistence, a failover, an eviction), listeners can
    run again. Each method is one round trip. Thread-safe.

    Raises:
        ConfigurationError: ``redis``, ``retention_seconds`` or ``timeout_seconds`` can't be used. The text shows no
            password.
    """

    outlives_process = True

    def __init__(
        self,
        redis: RedisSource,
        *,
        namespace: str | None = None,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        timeout_seconds: float = 2.0,
    ) -> None:
        if not is_number(retention_seconds) or not 0 < retention_seconds < math.inf:
            raise ConfigurationError(f"retention_seconds has to be above 0, not {retention_seconds!r}")
        if not is_number(timeout_seconds) or not 0 < timeout_seconds < math.inf:
            raise ConfigurationError(f"timeout_seconds has to be above 0, not {timeout_seconds!r}")
        self._client, default_namespace = connected(redis, timeout_seconds)
        self._owns_client = isinstance(redis, str)
        self._namespace = namespace or default_namespace
        self._kept_ms = _milliseconds(retention_seconds)
        self._eviction = _EvictionWarning(self._client)

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        lease_ms = _milliseconds(lease_seconds)
        answer = self._run("claim", _CLAIM, key, token.encode(), lease_ms, self._kept_ms)
        return _REFUSALS.get(answer) or Claimed(key, token, answer)

    def complete(self, claimed: Claimed) -> bool:
        return bool(self._run_held("complete", _COMPLETE, claimed, self._kept_ms))

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        taken_back = 0 if began else 1
        return bool(self._run_held("abandon", _ABANDON, claimed, self._kept_ms, taken_back))

    def forget_attempts(self, key: DeduplicationKey) -> None:
        self._run("forget attempts", _FORGET_ATTEMPTS, key)

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        lease_ms = _milliseconds(lease_seconds)
        return bool(self._run_held("renew", _RENEW, claimed, lease_ms, self._kept_ms))

    def check(self) -> None:
        """Raise ``DeduplicationError`` while no marks can be written.

        At the first call, and when Redis is back, it checks the eviction policy and logs a warning if marks could
        be evicted.
        """
        try:
            self._run_on("write", _CHECK, f"{self._namespace}:check".encode())
        except DeduplicationError:
            self._reconnect()
            raise
        self._eviction.look()

    def _run_held(self, action: str, script: _Script, claimed: Claimed, *arguments: int) -> int:
        return self._run(action, script, claimed.key, claimed.token.encode(), *arguments)

    def _run(self, action: str, script: _Script, key: DeduplicationKey, *arguments: bytes | int) -> int:
        return self._run_on(action, script, self._name_of(key), *arguments)

    def _run_on(self, action: str, script: _Script, key: bytes, *arguments: bytes | int) -> int:
        try:
            with mapped_errors(f"{action} in the deduplication store"):
                try:
                    return int(self._client.evalsha(script.sha, 1, key, *arguments))
                except NoScriptError:  # Redis does not have it yet, or was restarted; now it keeps it
                    return int(self._client.eval(script.text, 1, key, *arguments))
        except DeduplicationError:
            self._eviction.look_again()
            raise

    def _reconnect(self) -> None:
        """Close idle connections, so that the next call resolves the name: a failover may have changed it."""
        if self._owns_client and isinstance(self._client, Redis):
            self._client.connection_pool.disconnect(inuse_connections=False)

    def _name_of(self, key: DeduplicationKey) -> bytes:
        # Bytes, because a client may encode text differently (a SimpleCache uses Latin-1).
        return f"{self._namespace}:{key.digest().hex()}".encode()


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


# --- whether Redis may evict marks ---

_KEEPS_MARKS = "noeviction"


class _EvictionWarning:
    """Warns if Redis evicts keys when its memory is full.

    Every policy other than ``noeviction`` may evict marks: ``volatile-*`` chooses among the keys that expire,
    as ours do.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked = False
        self._warned_of: set[str] = set()

    def look(self) -> None:
        """Ask Redis once, and warn of each policy once."""
        if self._looked:
            return
        self._looked = True
        for policy in _policies(self._client) - self._warned_of - {_KEEPS_MARKS}:
            self._warned_of.add(policy)
            logger.warning(
                "Redis evicts keys when its memory is full (maxmemory-policy %s): messages without their marks "
                "can run again. Use a Redis with noeviction for deduplication",
                policy,
            )

    def look_again(self) -> None:
        """Check again next time: Redis may come back as another server."""
        self._looked = False


def _policies(client: Client) -> set[str]:
    """Return the eviction policies of all nodes with a limit; none if Redis does not report them."""
    try:
        # INFO, because managed services refuse CONFIG.
        if isinstance(client, RedisCluster):
            answer = client.info("memory", target_nodes=RedisCluster.PRIMARIES)
        else:
            answer = client.info("memory")
    except REDIS_ERRORS:
        logger.debug("Redis does not report its eviction policy", exc_info=True)
        return set()
    # Several nodes give one dict each.
    nodes = [node for node in answer.values() if isinstance(node, dict)] or [answer]
    return {
        node["maxmemory_policy"] for node in nodes if node.get("maxmemory") and "maxmemory_policy" in node
    }
