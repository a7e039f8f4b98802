"""What tests of threads and tasks ask of a bus."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from melange import DomainEventBus

ResultT = TypeVar("ResultT")


def names(bus: DomainEventBus) -> list[str]:
    return [subscription.subscriber.__name__ for subscription in bus.subscriptions]


def in_a_thread(function: Callable[[], ResultT]) -> ResultT:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
