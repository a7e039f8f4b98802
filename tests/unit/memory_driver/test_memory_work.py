"""Work per message on the in-memory driver does not grow with depth, and nothing piles up.

Work is counted in executed lines, not in seconds.
"""

import gc
import sys

import pytest

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS, MAX_VISIBILITY_SECONDS
from unit.memory_driver.given import fifo_messages, messages


@pytest.mark.parametrize("name", ["queue", "queue.fifo"])
def test_work_per_message_does_not_grow_with_what_waits_and_what_is_in_flight(driver, clock, name):
    shallow, deep = driver.declare_queue(f"shallow-{name}"), driver.declare_queue(f"deep-{name}")
    _fill(driver, deep, depth=5_000, in_flight=1_000)
    _fill(driver, shallow, depth=20, in_flight=10)

    lines_when_deep = _lines_of_a_round(driver, deep)

    assert lines_when_deep == _lines_of_a_round(driver, shallow)


def test_settled_deliveries_leave_nothing_behind(driver, clock):
    queue = driver.declare_queue("queue.fifo")
    for number in range(3_000):
        driver.send(queue, fifo_messages(str(number), group=str(number)))
        assert driver.acknowledge(driver.receive(queue, 1, 0)) == []
    inside = driver._broker.queues[queue.address].stored

    clock.advance(DEDUPLICATION_SECONDS)
    driver.send(queue, fifo_messages("last"))

    assert len(inside.copies_by_number) == 1
    assert len(inside._groups) == 1
    assert len(inside._window) == 1
    # Outdated deadlines are cleared out a thousand at a time.
    assert len(inside._deadlines) <= 1_001


def _messages_for(queue, *texts, group):
    return fifo_messages(*texts, group=group) if queue.is_fifo else messages(*texts)


def _fill(driver, queue, *, depth, in_flight):
    for start in range(0, depth, 10):
        texts = [f"{queue.name}-{number}" for number in range(start, start + 10)]
        driver.send(queue, _messages_for(queue, *texts, group=f"group-{start}"))
    for _ in range(in_flight // 10):
        driver.receive(queue, 10, 0, visibility_timeout_seconds=MAX_VISIBILITY_SECONDS)


def _lines_of_a_round(driver, queue):
    """Count the lines of melange that a send, a receive, a deferral and an acknowledgement execute."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    def trace_ours(frame, event, argument):
        return trace if frame.f_globals.get("__name__", "").startswith("melange.") else None

    # What other tests left to the garbage collector may run anything when it goes.
    gc.collect()
    gc.disable()
    before = sys.gettrace()
    sys.settrace(trace_ours)
    try:
        driver.send(queue, _messages_for(queue, f"new-{queue.name}", group="new"))
        deliveries = driver.receive(queue, 10, 0)
        driver.defer(deliveries[:1], 60)
        driver.acknowledge(deliveries[1:])
    finally:
        sys.settrace(before)
        gc.enable()
    assert len(deliveries) == 10
    assert lines
    return lines
