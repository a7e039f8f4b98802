"""The order of FIFO groups in a worker: one delivery of a group at a time, what waits behind it, and its retries."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from melange.clock import Clock
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.leases import Lease
from melange.consuming.outcomes import Defer, Outcome
from melange.errors import DecodeError
from melange.messages import Delivery
from melange.serialization.serializer import EventSerializer, EventTypeOf

logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 3600.0
"""Longer waits are split: the system's own timers refuse waits of centuries."""

_LONGEST_CALL_SECONDS = 1.0
"""How long ``close`` waits for the call that is being made."""


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

    def wait(self, key: Hashable, most: int) -> bool:
        """Note that the head of a lane waits for its retry, unless ``most`` deliveries wait already; return True if it may."""
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


class LaneWork:
    """Begins the heads of lanes, and settles them or keeps them in flight until their retries. Thread-safe.

    At most ``most_waiting`` deliveries wait for retries. ``begin`` works on deliveries; ``settle`` settles one, and returns
    True if its message is gone; ``release`` makes deliveries visible again after some seconds; ``end_lease`` ends a lease
    without a call to the broker.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        timers: RetryTimers,
        *,
        most_waiting: int,
        begin: Callable[[list[Lease]], None],
        settle: Callable[[Lease, Outcome], bool],
        release: Callable[[Sequence[Lease], float], None],
        end_lease: Callable[[Lease], None],
    ) -> None:
        self._consumer = consumer
        self._timers = timers
        self._most_waiting = most_waiting
        self._begin = begin
        self._settle = settle
        self._release = release
        self._end_lease = end_lease
        self._lanes = Lanes()

    @property
    def waiting(self) -> int:
        """The number of deliveries that wait for a retry."""
        return self._lanes.waiting

    def heads_of(self, leases: Sequence[Lease]) -> list[Lease]:
        """Put the leases into their lanes; return those that may begin."""
        consumer = self._consumer
        ready: list[Lease] = []
        for lease in leases:
            lease.lane = lane_of(
                lease.delivery, consumer.options.ordered_by, consumer.serializer, consumer.options.event_type
            )
            if lease.lane is not None:
                lost = self._lanes.lost_head(lease.lane)
                if lost is not None:
                    self.lost(lost)
            if lease.lane is None or self._lanes.enter(lease.lane, lease):
                ready.append(lease)
        return ready

    def conclude(self, lease: Lease, outcome: Outcome) -> None:
        """Settle the head of a lane and begin the next one, or keep it in flight until its retry."""
        lane = lease.lane
        if isinstance(outcome, Defer) and not lease.is_lost():
            try:
                self._retry(lease, outcome.delay_seconds)
                return
            except BaseException:  # or the head would be renewed forever, and its lane would stand still
                logger.exception("the retry of message %s was broken off", lease.delivery.message.message_id)
                self._end_lease(lease)
        elif self._settle(lease, outcome):
            following = self._lanes.advance(lane, lease)
            if following is not None:
                self._begin([following])
            return
        # It comes back, and nothing of its lane may overtake it.
        self._release([other for other in self._lanes.clear(lane) if other is not lease], 0)

    def lost(self, lease: Lease) -> None:
        """Free the lane of a head that waits for its retry: its message is delivered again, and comes first again."""
        if lease.lane is None:
            return
        lane = self._lanes.clear_waiting(lease.lane, lease)
        if lane:
            self._end_lease(lease)
            self._release(lane[1:], 0)

    def close(self) -> list[Lease]:
        """Remove all lanes; return the deliveries behind their heads."""
        return self._lanes.close()

    def _retry(self, lease: Lease, delay_seconds: float) -> None:
        """Keep the head of a lane in flight until its retry, so that its followers are not received repeatedly."""
        lease.retries += 1
        if self._consumer.queue.is_fifo:
            # The broker holds them back while the head is in flight: they need no place among what is in flight here.
            self._release(self._lanes.followers(lease.lane), 0)
        # A few groups that fail must leave capacity to the others. Beyond that they wait at the broker.
        if not (
            self._lanes.wait(lease.lane, most=self._most_waiting)
            and self._timers.after(delay_seconds, self._resume, lease)
        ):
            self._release(self._lanes.clear(lease.lane) or [lease], delay_seconds)

    def _resume(self, lease: Lease) -> None:
        if self._lanes.resume(lease.lane, lease):
            self._begin([lease])


class RetryTimers:
    """Calls functions later, on a daemon thread that starts with the first call. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Lease, Callable[[Lease], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._is_calling = False
        self._closed = False

    def after(self, seconds: float, call: Callable[[Lease], None], lease: Lease) -> bool:
        """Call ``call(lease)`` after ``seconds``; return False when it will not be called: after ``close``, or
        without a thread."""
        with self._changed:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="melange-timers", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start a thread
                    return False
                self._thread = thread
            due = self._clock.monotonic() + seconds
            heapq.heappush(self._calls, (due, next(self._order), lease, call))
            self._changed.notify()
            return True

    def close(self) -> list[tuple[Lease, float]]:
        """Make no further calls; return the waiting leases, each with the time of its call.

        Waits for the call that is being made: its lease is neither among these nor at its destination yet.
        """
        with self._changed:
            self._closed = True
            waiting = [(lease, due) for due, _, lease, _ in self._calls]
            self._calls.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_calling, _LONGEST_CALL_SECONDS)
            return waiting

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = self._clock.monotonic()
                if not self._calls:
                    self._changed.wait()
                    continue
                due, _, lease, call = self._calls[0]
                if due > now:
                    try:
                        self._clock.wait(self._changed, min(due - now, _LONGEST_WAIT_SECONDS))
                    except TimeoutError:  # a clock for tests that was not advanced
                        logger.debug("the clock of the test stands still: the next retry waits")
                    continue
                heapq.heappop(self._calls)
                self._is_calling = True
            try:
                call(lease)
            except Exception:
                logger.exception("a retry could not begin; the message will be delivered again")
            finally:
                with self._changed:
                    self._is_calling = False
                    self._changed.notify_all()
