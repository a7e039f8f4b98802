"""How much a worker may have in hand, shared fairly by its queues."""

from __future__ import annotations

import threading


class Slots:
    """As many as deliveries may be in hand at once; a poller takes them before it asks the broker.

    So prefetch never exceeds what can be worked on, and other workers are not starved. No queue takes more
    than its share while another one waits for its own, and each can always have one. Thread-safe.
    """

    def __init__(self, count: int, queues: int) -> None:
        self._free = count
        self._share = max(1, count // queues)
        self._changed = threading.Condition()
        self._held = [0] * queues
        self._waiting = [False] * queues
        self._closed = False

    def take(self, queue: int, most: int) -> int:
        """Take up to ``most`` slots for a queue; blocks until there is one. 0 after ``close``."""
        with self._changed:
            self._waiting[queue] = True
            try:
                self._changed.wait_for(lambda: self._closed or self._available(queue) > 0)
                taken = 0 if self._closed else min(most, self._available(queue))
            finally:
                self._waiting[queue] = False
            self._free -= taken
            self._held[queue] += taken
            self._changed.notify_all()  # who gave way to this queue need not any more
            return taken

    def give_back(self, queue: int, count: int = 1) -> None:
        """Give slots back."""
        with self._changed:
            self._free += count
            self._held[queue] -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out no more; whoever waits gets 0."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def held(self, queue: int) -> int:
        """Return how many slots a queue holds, those of its open poll included."""
        return self._held[queue]

    def _available(self, queue: int) -> int:
        if self._held[queue] >= self._share and any(
            waiting and held < self._share for waiting, held in zip(self._waiting, self._held, strict=True)
        ):
            return 0
        # One slot is kept for each queue that holds none at the moment, so that none is shut out by
        # others whose listeners take for ever.
        kept = sum(held == 0 for other, held in enumerate(self._held) if other != queue)
        return self._free - kept
