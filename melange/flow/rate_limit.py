"""Rate limits: a number of messages a second, in one process or over all that share a Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from melange.clock import Clock
from melange.consuming.gates import FlowState, Gate
from melange.errors import ConfigurationError, is_number
from melange.messages import Queue
from melange.middleware import Middleware

if TYPE_CHECKING:
    from melange.consuming.listener import ListenerCall
    from melange.consuming.outcomes import Outcome
    from melange.deduplication.redis_connection import RedisSource

_RECEIVED_AT_ONCE = 10

_REDIS_TIMEOUT_SECONDS = 2.0

# The time is that of Redis, because the clocks of machines differ.
_SPEND_IN_REDIS = """
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


class Bucket(Protocol):
    """Tokens that are filled up at a rate. Thread-safe. There may be fewer than none: then nothing is allowed for longer."""

    def spend(self, count: int) -> float:
        """Take ``count`` tokens, 0 to only look; return the number that is left."""


class RateLimit(Gate):
    """At most ``per_second`` messages a second on average, over the limit nothing is received.

    Pass it to one consumer as ``flow=[RateLimit(50)]``. A poll receives up to ten messages at once, so a burst is that long
    at least, and with several workers each may receive as many. The average over a longer time is kept.

    Args:
        per_second: messages a second; less than one for one in several seconds.
        burst: how many may be received at once after a quiet time; by default as many as in a second.
        listener: count the runs of this listener, retries included, and not the messages of the queue. The queue waits while
            the listener is over its limit.
        redis: share the limit over all processes: a URL, a client of redis-py or a ``SimpleCache``. While Redis is
            unavailable nothing is received.
        name: processes with the same name share the limit; by default the queue, or the queue and the listener.

    Raises:
        ConfigurationError: a number is out of bounds.
    """

    def __init__(
        self,
        per_second: float,
        *,
        burst: float | None = None,
        listener: str | None = None,
        redis: RedisSource | None = None,
        name: str | None = None,
    ) -> None:
        if not is_number(per_second) or not 0 < per_second < float("inf"):
            raise ConfigurationError(f"per_second must be a number above 0, not {per_second!r}")
        if burst is None:
            burst = max(1.0, per_second)
        if not is_number(burst) or not 1 <= burst < float("inf"):
            raise ConfigurationError(f"burst must be a number of at least 1, not {burst!r}")
        self._per_second = per_second
        self._burst = burst
        self._listener = listener
        self._redis = redis
        self._name = name
        # So that a rate of 50 does not make 50 polls a second, of a message each.
        self._least = min(burst, float(_RECEIVED_AT_ONCE), max(1.0, per_second))
        self._bucket: Bucket | None = None
        self._is_limiting = False

    def bind(self, queue: Queue, clock: Clock) -> None:
        if self._bucket is not None:
            raise ConfigurationError("a RateLimit belongs to one consumer: make another one")
        if self._redis is None:
            self._bucket = LocalBucket(self._per_second, self._burst, clock)
            return
        name = self._name or f"{queue.address} {self._listener or ''}".rstrip()
        self._bucket = RedisBucket(self._redis, name, self._per_second, self._burst)

    @property
    def hooks(self) -> Sequence[Middleware]:
        if self._listener is None:
            return ()  # hooks cost a thread for each coroutine
        assert self._bucket is not None
        return (_CountedRuns(self._bucket, self._listener),)

    @property
    def state(self) -> FlowState:
        return "limited" if self._is_limiting else "open"

    def allowance(self) -> int | None:
        assert self._bucket is not None
        left = self._bucket.spend(0)
        self._is_limiting = left < self._least
        return 0 if self._is_limiting else int(left)

    def received(self, count: int) -> None:
        if self._listener is None and count:
            assert self._bucket is not None
            self._bucket.spend(count)


class _CountedRuns(Middleware):
    """Takes a token for each run of a listener."""

    def __init__(self, bucket: Bucket, listener: str) -> None:
        self._bucket = bucket
        self._listener = listener

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        if call.listener_name == self._listener:
            self._bucket.spend(1)
        return run(call)


class LocalBucket:
    """Tokens in this process."""

    def __init__(self, per_second: float, burst: float, clock: Clock) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = burst
        self._filled_at = self._clock.monotonic()

    def spend(self, count: int) -> float:
        with self._lock:
            now = self._clock.monotonic()
            filled = self._tokens + (now - self._filled_at) * self._per_second
            self._tokens = min(self._burst, filled) - count
            self._filled_at = now
            return self._tokens


class RedisBucket:
    """Tokens in Redis, shared by all processes that use its name.

    Raises ``DeduplicationError`` while Redis is unavailable.
    """

    def __init__(self, redis: RedisSource, name: str, per_second: float, burst: float) -> None:
        # It imports the redis library, which a limit of one process does without.
        from melange.deduplication.redis_connection import connected, mapped_errors  # noqa: PLC0415 - see above

        self._mapped_errors = mapped_errors
        self._client, namespace = connected(redis, _REDIS_TIMEOUT_SECONDS)
        digest = blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        self._key = f"{namespace}:rate:{digest}"
        self._arguments = (repr(float(per_second)), repr(float(burst)))

    def spend(self, count: int) -> float:
        with self._mapped_errors("ask the rate limit"):
            return float(self._client.eval(_SPEND_IN_REDIS, 1, self._key, *self._arguments, str(count)))
