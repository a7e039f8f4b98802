"""Tools for tests: the harness of an application, contract suites for drivers and stores, and a clock.

The suites need pytest, the rest does not. Import a suite from its own module,
``from melange.testing.driver_contract import DriverContract``, or from here, where it is looked up on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from melange.testing.clock import ManualClock

if TYPE_CHECKING:
    from melange.testing.deduplication_contract import (
        DeduplicationStoreContract,
        TransactionalStoreContract,
    )
    from melange.testing.driver_contract import DriverContract
    from melange.testing.harness import Harness

__all__ = [
    "DeduplicationStoreContract",
    "DriverContract",
    "Harness",
    "ManualClock",
    "TransactionalStoreContract",
]

_IMPORTED_WHEN_ASKED_FOR = {
    "DeduplicationStoreContract": "melange.testing.deduplication_contract",
    "DriverContract": "melange.testing.driver_contract",
    "Harness": "melange.testing.harness",
    "TransactionalStoreContract": "melange.testing.deduplication_contract",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_WHEN_ASKED_FOR[name]), name)
