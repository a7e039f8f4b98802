"""Lanes: what has to be worked on one at a time, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable

from melange.consuming.leases import Lease


class Lanes:
    """Deliveries in line behind one another, by key: a message group, or what ``ordered_by`` names.

    Only the first of a lane is worked on, until it is settled. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, deque[Lease]] = {}
        self._closed = False

    def enter(self, key: Hashable, lease: Lease) -> bool:
        """Put a lease at the end of its lane; return whether it is the first and may begin."""
        with self._lock:
            if self._closed:
                return True
            lane = self._lanes.get(key)
            if lane is not None:
                lane.append(lease)
                return False
            self._lanes[key] = deque([lease])
            return True

    def advance(self, key: Hashable) -> Lease | None:
        """Take the first of a lane out of it; return the one that is first now and may begin."""
        with self._lock:
            lane = self._lanes.get(key)
            if not lane:
                return None
            lane.popleft()
            if lane:
                return lane[0]
            del self._lanes[key]
            return None

    def members(self, key: Hashable) -> list[Lease]:
        """Return who is in a lane, in order."""
        with self._lock:
            return list(self._lanes.get(key, ()))

    def clear(self, key: Hashable) -> list[Lease]:
        """Dissolve a lane; return who was in it, in order."""
        with self._lock:
            return list(self._lanes.pop(key, ()))

    def close(self) -> list[Lease]:
        """Dissolve all lanes for good; return those that waited behind the first."""
        with self._lock:
            self._closed = True
            waiting = [lease for lane in self._lanes.values() for lease in list(lane)[1:]]
            self._lanes.clear()
            return waiting
