"""The servers of the runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from chaos.scene import Services
from services import postgres

if TYPE_CHECKING:
    from services.postgres import PostgresServer
    from services.redis import RedisServer


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL that runs may kill, as long as they start it again."""
    with postgres.run() as server:
        yield server


@pytest.fixture
def services(sns_sqs_server: str, redis_server: RedisServer, shared_postgres: PostgresServer) -> Services:
    return Services(sns_sqs_server, redis_server, shared_postgres)
