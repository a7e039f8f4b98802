"""A server that all clients share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services import melange_server


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with melange_server.run() as url:
        yield url
