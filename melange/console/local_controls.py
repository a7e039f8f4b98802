"""What only ``melange server`` shows in the console: its faults, disorder, clock and snapshots, and its event log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from melange.console.backend import NotFoundError, RefusedError
from melange.console.model import Disorder, Snapshot
from melange.errors import ConfigurationError
from melange.server.broker import LONGEST_ADVANCE_SECONDS, Broker
from melange.server.faults import Faults
from melange.server.snapshots import Snapshots
from melange.server.stories import Story, find_stories, find_story


class LocalControls:
    """Disturbs a server in this process. Thread-safe."""

    def __init__(self, broker: Broker, faults: Faults, snapshots: Snapshots) -> None:
        self._broker = broker
        self._faults = faults
        self._snapshots = snapshots

    @property
    def advanced_seconds(self) -> float:
        return self._broker.clock.advanced_seconds

    def advance(self, seconds: float) -> None:
        if not 0 < seconds <= LONGEST_ADVANCE_SECONDS:
            raise RefusedError("The clock goes forward only, by up to a year at once.")
        self._broker.advance(seconds)
        self._broker.commit(is_topology_changed=True)

    def faults(self) -> Sequence[Mapping[str, Any]]:
        return [fault.described() for fault in self._faults.all()]

    def add_fault(self, options: Mapping[str, Any]) -> None:
        with _refusing():
            self._faults.add(**options)

    def remove_fault(self, fault_id: int) -> None:
        if not self._faults.remove(fault_id):
            raise NotFoundError("The fault was removed before.")

    def disorder(self) -> Disorder:
        return Disorder(self._broker.disorder.duplicates, self._broker.disorder.shuffle)

    def set_disorder(self, disorder: Disorder) -> None:
        with _refusing():
            self._broker.set_disorder(duplicates=disorder.duplicates, shuffle=disorder.shuffle)

    def reset(self) -> None:
        self._broker.reset()
        self._faults.clear()
        self._broker.commit(is_topology_changed=True)

    def snapshots(self) -> Sequence[Snapshot]:
        return [
            Snapshot(name, state.taken_at, len(state.copies)) for name, state in self._snapshots.all().items()
        ]

    def take_snapshot(self, name: str) -> None:
        with _refusing():
            self._snapshots.take(name)

    def restore_snapshot(self, name: str) -> None:
        with _refusing():
            is_there = self._snapshots.restore(name)
        if not is_there:
            raise NotFoundError(f"The snapshot {name} does not exist.")
        self._broker.commit(is_topology_changed=True)

    def remove_snapshot(self, name: str) -> None:
        if not self._snapshots.remove(name):
            raise NotFoundError(f"The snapshot {name} does not exist.")


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        raise RefusedError(str(error)) from None


class LocalLog:
    """Reads the log of a server in this process. Thread-safe."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def forgotten(self) -> int:
        return self._broker.event_log.forgotten

    def find(
        self, *, message_id: str = "", event_type: str = "", text: str = "", limit: int = 100
    ) -> Sequence[Story]:
        return find_stories(
            self._broker, message_id=message_id, event_type=event_type, text=text, limit=limit
        )

    def story(self, message_id: str) -> Story:
        story = find_story(self._broker, message_id)
        if story is None:
            raise NotFoundError(
                f"The event log has nothing about message {message_id!r:.60}: it begins with the server, and forgets its "
                "oldest events."
            )
        return story
