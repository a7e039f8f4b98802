"""A bucket of tokens in Redis, shared by all processes that use its name."""

from __future__ import annotations

from hashlib import blake2b

from melange.deduplication.redis_connection import RedisSource, connected, mapped_errors

_TIMEOUT_SECONDS = 2.0

# The time is that of Redis, because the clocks of machines differ.
_SPEND = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local rate, burst, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local stored = redis.call('HMGET', KEYS[1], 'tokens', 'filled_at')
local tokens = burst
if stored[1] then
    tokens = math.min(burst, tonumber(stored[1]) + math.max(0, now - tonumber(stored[2])) * rate)
end
tokens = tokens - count
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'filled_at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / rate * 1000) + 60000)
return tostring(tokens)
"""


class RedisBucket:
    """Tokens in Redis. Raises ``DeduplicationError`` while Redis is unavailable."""

    def __init__(self, redis: RedisSource, name: str, per_second: float, burst: float) -> None:
        self._client, namespace = connected(redis, _TIMEOUT_SECONDS)
        digest = blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        self._key = f"{namespace}:rate:{digest}"
        self._arguments = (repr(float(per_second)), repr(float(burst)))

    def spend(self, count: int) -> float:
        with mapped_errors("ask the rate limit"):
            return float(self._client.eval(_SPEND, 1, self._key, *self._arguments, str(count)))
