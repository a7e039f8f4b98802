"""A relay is killed at each of its steps, one after the other: every statement, commit and call to the broker."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, event

from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.messages import Message, Topic
from melange.outbox import OutboxRelay
from outbox_behaviours.drivers import out_of_order

BATCH = 2
DIED = 137


class BrokerInAFile(InMemoryDriver):
    """Writes the names of the messages that it accepts into a file, which outlives the process."""

    def __init__(self, path: Path, step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._path = path
        self._step = step

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        self._step()
        with self._path.open("a") as file:
            file.writelines(f"{json.loads(message.body)['name']}\n" for message in messages)
        self._step()
        return []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork with threads of pytest
class DeathBehaviours:
    def test_a_relay_that_dies_at_any_step_loses_nothing_and_repeats_one_batch(self, database, tmp_path):
        path = tmp_path / "arrived"
        last = OutboxRelay(database.engine, BrokerInAFile(path), batch_size=BATCH)
        written: list[str] = []
        for deadly_step in itertools.count(1):
            number = 2 * (deadly_step - 1)
            names = [f"a{number}", f"b{number}", f"a{number + 1}", f"b{number + 1}"]
            database.write(*names)
            written += names

            has_died = _relay_in_a_child(database.engine.url, path, deadly_step)
            last.relay_pending()  # one that is started later

            if not has_died:
                break
        deaths = deadly_step - 1
        arrived = path.read_text().split()

        assert deaths > 10
        assert sorted(set(arrived)) == sorted(written)
        assert out_of_order(arrived) == []
        assert len(arrived) <= len(written) + BATCH * deaths
        assert database.states == ["sent"] * len(written)


def _relay_in_a_child(url: URL, path: Path, deadly_step: int) -> bool:
    """Relay what is pending in a forked process, which dies at one of its steps; return True if it did."""
    child = os.fork()
    if child == 0:
        try:
            _relay(url, path, deadly_step)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, DIED}
    return code == DIED


def _relay(url: URL, path: Path, deadly_step: int) -> None:
    steps = itertools.count(1)

    def step(*_: Any) -> None:
        if next(steps) == deadly_step:
            os._exit(DIED)  # runs nothing and writes out nothing, as a kill

    engine = create_engine(url)
    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(engine, name, step)
    OutboxRelay(engine, BrokerInAFile(path, step), batch_size=BATCH).relay_pending()
