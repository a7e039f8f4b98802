"""Fixtures for pytest: ``pytest_plugins = ["melange.testing.fixtures"]`` in your topmost ``conftest.py`` turns them on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from melange.domain import DomainEventBus


@pytest.fixture
def domain_events() -> Iterator[list[object]]:
    """Yield the list of the domain events that the test publishes, in the order in which they are handled.

    Subscriptions of the test to ``DomainEventBus.instance()`` end with it.
    """
    bus = DomainEventBus.instance()
    with bus.scope(), bus.recording() as events:
        yield events
