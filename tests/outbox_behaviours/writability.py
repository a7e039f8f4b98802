"""What relays do on databases where nothing can be marked: each start would publish the same messages again."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from sqlalchemy import Engine

from melange.errors import OutboxError
from melange.outbox import OutboxRelay


class ReadOnly(NamedTuple):
    """A way to the database of a test by which nothing can be written, and what is said of it."""

    engine: Engine
    match: str


class WritabilityBehaviours:
    """The class of each database has a fixture ``read_only``."""

    def test_nothing_is_published_from_where_nothing_can_be_marked(self, database, driver, read_only):
        database.write("a0", "b0")

        for _ in range(2):
            with pytest.raises(OutboxError, match=read_only.match):
                OutboxRelay(read_only.engine, driver).relay_pending()

        assert driver.calls == []
        assert database.states == ["pending", "pending"]

    def test_a_relay_that_is_started_there_says_so_and_is_not_ready(
        self, database, driver, read_only, eventually, caplog
    ):
        database.write("a0")
        relay = OutboxRelay(read_only.engine, driver)

        relay.start()
        try:
            eventually(lambda: caplog.text.count("trying again") >= 3)
            ready = relay.health().ready
        finally:
            relay.stop(30)

        assert re.search(read_only.match, caplog.text)
        assert not ready
        assert driver.calls == []
