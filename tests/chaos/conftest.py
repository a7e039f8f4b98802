"""The servers of the runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from chaos.scene import Services
from services import ministack, postgres

if TYPE_CHECKING:
    from services.postgres import PostgresServer
    from services.redis import RedisServer


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL that runs may kill, as long as they start it again."""
    with postgres.run() as server:
        yield server


@pytest.fixture(scope="session")
def sns_sqs_server() -> Iterator[str]:
    """Yield the URL of a MiniStack, as in the full runs: melange is not measured against its own idea of SQS."""
    with ministack.run() as url:
        yield url


@pytest.fixture
def services(sns_sqs_server: str, redis_server: RedisServer, shared_postgres: PostgresServer) -> Services:
    return Services(sns_sqs_server, redis_server, shared_postgres)
