"""The program of the soak: ``python -m chaos.soaking MESSAGES`` prints what it measured of itself."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    QueueOptions,
    Worker,
)
from melange.drivers.memory import InMemoryDriver

CHUNK = 1_000
MOST_QUEUED = 2_000
MOST_MARKS = 5_000
WARM_UP = 0.1
STOP_SECONDS = 10


def work_off(messages: int) -> Mapping[str, Any]:
    """Publish and consume in this process; return what was measured."""
    threads, files = threading.active_count(), _open_files()
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "soak",
        "soak",
        driver=driver,
        queue=QueueOptions(wait_seconds=1),
        deduplication=MemoryDeduplicationStore(max_marks=MOST_MARKS),
    )
    effects = 0
    after_a_tenth = 0
    lock = threading.Lock()

    def count(event: object) -> None:
        nonlocal effects
        with lock:
            effects += 1

    consumer.listener("Soaked", name="count")(count)
    publisher = ExchangeMessagePublisher("soak", driver)
    worker = Worker(consumer, concurrency=8, handle_signals=False)
    began_at = time.monotonic()
    worker.start()
    for published in range(0, messages, CHUNK):
        publisher.publish_batch(
            {"event_type_name": "Soaked", "number": published + number}
            for number in range(min(CHUNK, messages - published))
        )
        if not after_a_tenth and published >= messages * WARM_UP:
            after_a_tenth = _resident_bytes()
        while _left(driver) > MOST_QUEUED:
            time.sleep(0.01)
    while _left(driver):
        time.sleep(0.01)
    seconds = time.monotonic() - began_at
    at_the_end = _resident_bytes()
    worker.stop()
    driver.close()
    _wait_for_threads(threads)
    return {
        "effects": effects,
        "seconds": seconds,
        "bytes after a tenth": after_a_tenth,
        "bytes at the end": at_the_end,
        "threads": threads,
        "threads at the end": threading.active_count(),
        "files": files,
        "files at the end": _open_files(),
    }


def _left(driver: InMemoryDriver) -> int:
    depth = driver.measure_queue(driver.get_queue("soak"))
    return depth.visible + depth.in_flight + depth.delayed


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _wait_for_threads(count: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)


if __name__ == "__main__":
    print(json.dumps(work_off(int(sys.argv[1]))))
