"""The order of deliveries: lanes, in which they run one at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable

from melange.consuming.leases import Lease
from melange.errors import DecodeError
from melange.messages import Delivery
from melange.serialization.serializer import EventSerializer, EventTypeOf


class Lanes:
    """Queues of deliveries by key: a message group, or the value of ``ordered_by``.

    Only the head of a lane runs, until it is settled. A head that waits for its retry leaves its lane when its lease is
    lost. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, deque[Lease]] = {}
        self._waiting: set[Lease] = set()

    def enter(self, key: Hashable, lease: Lease) -> bool:
        """Put a lease at the end of its lane; return True if it is the head and may begin."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                self._lanes[key] = deque([lease])
                return True
            lane.append(lease)
            return False

    def advance(self, key: Hashable, head: Lease) -> Lease | None:
        """Remove the head from its lane; return the next one, which may start."""
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

    @property
    def waiting(self) -> int:
        """The number of deliveries that wait for a retry."""
        return len(self._waiting)

    def lost_head(self, key: Hashable) -> Lease | None:
        """Return the head of a lane if it waits for its retry and its lease is lost."""
        with self._lock:
            lane = self._lanes.get(key)
            return lane[0] if lane and lane[0] in self._waiting and lane[0].is_lost() else None

    def clear_waiting(self, key: Hashable, head: Lease) -> list[Lease]:
        """Dissolve a lane if its head is this one, and waits for its retry; return its members, in order."""
        with self._lock:
            lane = self._lanes.get(key)
            if not lane or lane[0] is not head or head not in self._waiting:
                return []
            del self._lanes[key]
            self._waiting.difference_update(lane)
            return list(lane)

    def followers(self, key: Hashable) -> list[Lease]:
        """Remove all but the head from a lane and return them, in order."""
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
        """Remove all lanes; return the deliveries behind their heads."""
        with self._lock:
            behind = [lease for lane in self._lanes.values() for lease in list(lane)[1:]]
            self._lanes.clear()
            self._waiting.clear()
            return behind


def lane_of(
    delivery: Delivery, ordered_by: str | None, serializer: EventSerializer, event_type: EventTypeOf | None
) -> Hashable | None:
    """Return the key of the order of this delivery: its group, or the value of a field; None for no order."""
    if delivery.queue.is_fifo:
        return delivery.message.message_group_id
    if ordered_by is None:
        return None
    try:
        _, data = serializer.read(delivery.message, event_type)
    except DecodeError:
        return None
    # Events of others may be lists and texts.
    value = data.get(ordered_by) if isinstance(data, dict) else None
    return value if isinstance(value, (str, int)) else None
