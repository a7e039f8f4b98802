"""An outbox on SQLite, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("outbox_behaviours")

from outbox_behaviours.databases import Database, sqlite_database  # noqa: E402
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
def database(tmp_path: Path) -> Iterator[Database]:
    yield from sqlite_database(tmp_path)
