"""An outbox on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("outbox_behaviours")

from outbox_behaviours.databases import Database, postgres_database  # noqa: E402
from outbox_behaviours.fixtures import (  # noqa: E402
    clock,
    driver,
    eventually,
    relay_pending,
    start_process,
    start_relay,
)

__all__ = ["clock", "driver", "eventually", "relay_pending", "start_process", "start_relay"]


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    yield from postgres_database(postgres_url)
