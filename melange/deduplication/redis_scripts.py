"""The steps that Redis carries out as a whole, in Lua.

Each key is a hash. While the listener is at work it holds ``token``, ``digest`` (of the body) and
``leased_until``, milliseconds by the server's clock; a mark is the same without ``leased_until``. A claim's key
outlives its lease, so that who finishes late still finds it unless another took over.

Every script touches one key, so that it runs on any cluster.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

CLAIMED, BUSY, DONE, CONFLICT = range(4)
"""What ``CLAIM`` answers; numbers, because text comes back as bytes or str, as the client was set up."""


class Script(NamedTuple):
    """A Lua script and the name that Redis knows it by once it has seen it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

CLAIM = _script(
    f"""local token, digest, lease_ms, kept_ms = unpack(ARGV)
{_NOW}
local holder, held_digest, leased_until = unpack(redis.call('HMGET', KEYS[1], 'token', 'digest', 'leased_until'))
if holder and not leased_until then
    return digest == held_digest and {DONE} or {CONFLICT}
end
if holder and holder ~= token and tonumber(leased_until) > now then
    return {BUSY}
end
redis.call('HSET', KEYS[1], 'token', token, 'digest', digest, 'leased_until', now + lease_ms)
redis.call('PEXPIRE', KEYS[1], lease_ms + kept_ms)
return {CLAIMED}
"""
)

COMPLETE = _script(
    """local token, kept_ms = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'token') ~= token then
    return 0
end
redis.call('HDEL', KEYS[1], 'leased_until')
redis.call('PEXPIRE', KEYS[1], kept_ms)
return 1
"""
)

ABANDON = _script(
    """local holder, leased_until = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until'))
if holder ~= ARGV[1] or not leased_until then
    return 0
end
return redis.call('DEL', KEYS[1])
"""
)

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
