"""A deduplication store in Redis; importing this imports the redis client library."""

from melange.deduplication.redis.store import RedisDeduplicationStore

__all__ = ["RedisDeduplicationStore"]
