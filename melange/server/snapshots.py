"""Snapshots of a broker under names or as files, so that a test or a developer can come back to a state."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import asdict

from melange.errors import ConfigurationError
from melange.server.broker import Broker
from melange.server.state import BrokerState, KeptCopy, KeptId, key_of, message_json, message_of

_MAX_SNAPSHOTS = 100
NAME = r"[A-Za-z0-9_.-]{1,80}"

_FORMAT = 1


class Snapshots:
    """What a broker had at some moments. Thread-safe."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._states: dict[str, BrokerState] = {}

    def take(self, name: str) -> BrokerState:
        """Keep all that the broker has under a name, in place of an earlier snapshot with it. Takes the broker's lock.

        Raises:
            ConfigurationError: the name is not allowed, or there are too many snapshots.
        """
        return self.keep(name, self._broker.snapshot())

    def keep(self, name: str, state: BrokerState) -> BrokerState:
        """Keep a snapshot that was taken elsewhere; raises what ``take`` does."""
        if not re.fullmatch(NAME, name):
            raise ConfigurationError(
                f"a snapshot is named by 1 to 80 letters, digits, '.', '_' and '-', not {name!r:.100}"
            )
        with self._lock:
            if name not in self._states and len(self._states) >= _MAX_SNAPSHOTS:
                raise ConfigurationError(f"there are {_MAX_SNAPSHOTS} snapshots already: delete one first")
            self._states[name] = state
        return state

    def restore(self, name: str) -> bool:
        """Have the broker as it was; return False if there is no such snapshot. Takes the broker's lock.

        Raises:
            ConfigurationError: the snapshot comes from a file that is damaged.
        """
        state = self.find(name)
        if state is not None:
            self._broker.restore(state)
        return state is not None

    def remove(self, name: str) -> bool:
        """Forget a snapshot; return False if there is none with this name."""
        with self._lock:
            return self._states.pop(name, None) is not None

    def find(self, name: str) -> BrokerState | None:
        """Return the snapshot with this name, or None."""
        with self._lock:
            return self._states.get(name)

    def all(self) -> dict[str, BrokerState]:
        """Return the snapshots by name, in the order in which the names were used first."""
        with self._lock:
            return dict(self._states)


def write_snapshot(state: BrokerState) -> str:
    """Return the text of a snapshot file."""
    copies = [kept._replace(message=message_json(kept.message)) for kept in state.copies]  # type: ignore[arg-type]
    document = {"melange_server_snapshot": _FORMAT} | asdict(state) | {"copies": copies}
    return json.dumps(document)


def read_snapshot(text: str | bytes) -> BrokerState:
    """Return the state of a snapshot file.

    Raises:
        ConfigurationError: it is not one.
    """
    try:
        document = json.loads(text)
        if document.pop("melange_server_snapshot") != _FORMAT:
            raise ConfigurationError("the snapshot was not written by this version of melange server")
        document["copies"] = [
            KeptCopy(number, arn, message_of(content), *rest)
            for number, arn, content, *rest in document["copies"]
        ]
        document["ids"] = [
            KeptId(arn, key_of(key), until, answer) for arn, key, until, answer in document["ids"]
        ]
        return BrokerState(**document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigurationError("the body is not a snapshot of melange server") from None
