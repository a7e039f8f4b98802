"""What the tests of the Redis store share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from melange.deduplication import DeduplicationKey
from services.redis import run_cluster


@pytest.fixture
def key() -> DeduplicationKey:
    """Return the key of a new message."""
    return DeduplicationKey("orders", "StockListener", str(uuid.uuid4()), ("content",))


@pytest.fixture
def namespace() -> str:
    """Return a namespace of the test's own, for the Redis may be shared."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[redis.RedisCluster]:
    """Yield a client of a Redis Cluster."""
    with run_cluster() as client:
        yield client
