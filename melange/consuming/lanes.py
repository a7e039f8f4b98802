"""Lanes: what has to be worked on one at a time, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable

from melange.consuming.leases import Lease


class Lanes:
    """Deliveries in line behind one another, by key: a message group, or what ``ordered_by`` names.

    Only the head of a lane is worked on, until it is settled. A head that waits for its retry gives up its lane when its
    lease is lost. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, deque[Lease]] = {}
        self._waiting: set[Lease] = set()

    def enter(self, key: Hashable, lease: Lease) -> bool:
        """Put a lease at the end of its lane; return True if it is the head and may begin."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None or (lane[0] in self._waiting and lane[0].is_lost()):
                self._waiting.difference_update(lane or ())
                self._lanes[key] = deque([lease])
                return True
            lane.append(lease)
            return False

    def advance(self, key: Hashable, head: Lease) -> Lease | None:
        """Take the head out of its lane; return the next one, which may begin."""
        with self._lock:
            lane = self._lanes.get(key)
            if not lane or lane[0] is not head:
                return None
            lane.popleft()
            self._waiting.discard(head)
            if lane:
                return lane[0]
            del self._lanes[key]
            return None

    def wait(self, key: Hashable, head: Lease, most: int) -> bool:
        """Note that the head waits for its retry, unless ``most`` deliveries wait already; return True if it may."""
        with self._lock:
            lane = self._lanes.get(key, ())
            if len(self._waiting) + len(lane) > most:
                return False
            self._waiting.update(lane)
            return True

    def resume(self, key: Hashable, head: Lease) -> bool:
        """Note that the head's retry is due; return True if it still is the head of its lane."""
        with self._lock:
            lane = self._lanes.get(key)
            if not lane or lane[0] is not head:
                return False
            self._waiting.difference_update(lane)
            return True

    def is_waiting(self, head: Lease) -> bool:
        """Return True if the head waits for its retry."""
        return head in self._waiting

    def followers(self, key: Hashable) -> list[Lease]:
        """Take all but the head out of a lane and return them, in order."""
        with self._lock:
            lane = self._lanes.get(key)
            if not lane:
                return []
            followers = list(lane)[1:]
            self._lanes[key] = deque([lane[0]])
            self._waiting.difference_update(followers)
            return followers

    def clear(self, key: Hashable) -> list[Lease]:
        """Dissolve a lane; return its members, in order."""
        with self._lock:
            lane = list(self._lanes.pop(key, ()))
            self._waiting.difference_update(lane)
            return lane

    def close(self) -> list[Lease]:
        """Dissolve all lanes; return those behind their heads."""
        with self._lock:
            behind = [lease for lane in self._lanes.values() for lease in list(lane)[1:]]
            self._lanes.clear()
            self._waiting.clear()
            return behind
