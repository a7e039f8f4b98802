"""The atomic steps in Redis, as Lua scripts.

Each deduplication key is one hash, in one of three states:

- claimed: ``token``, ``leased_until`` (milliseconds by the server's clock) and ``attempts``;
- free, after a run that failed: ``attempts`` alone;
- done: ``token`` alone, of the claim that was completed.

The hash of a claim lives longer than the lease: a listener that finishes late can still complete, and the attempt of a
process that died stays counted.

Every script touches one key, so that it runs on any cluster.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

BUSY, DONE = -1, -2
"""Refusals of ``CLAIM``; otherwise it answers with the number of the attempt."""


class Script(NamedTuple):
    """A Lua script, and the name under which Redis keeps it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# An attempt that was forgotten while its claim was held counts as the first when the same claim is sent again.
CLAIM = _script(
    f"""local token, lease_ms, kept_ms = unpack(ARGV)
{_NOW}
local holder, leased_until, attempts = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until', 'attempts'))
if holder and not leased_until then
    return {DONE}
end
if holder and holder ~= token and tonumber(leased_until) > now then
    return {BUSY}
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

COMPLETE = _script(
    """local token, kept_ms = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'token') ~= token then
    return 0
end
redis.call('HDEL', KEYS[1], 'leased_until', 'attempts')
redis.call('PEXPIRE', KEYS[1], kept_ms)
return 1
"""
)

ABANDON = _script(
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

FORGET_ATTEMPTS = _script("return redis.call('HDEL', KEYS[1], 'attempts')\n")

RENEW = _script(
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

CHECK = _script(
    """redis.call('SET', KEYS[1], '', 'PX', 1000)
return 1
"""
)
"""Writes, so that a replica, a full memory and a missing permission are found too."""
