"""Events to publish, and a bus that no other test has touched."""

from __future__ import annotations

import pytest

from melange import DomainEventBus


@pytest.fixture
def bus() -> DomainEventBus:
    return DomainEventBus()


@pytest.fixture
def seen() -> list[object]:
    """Where a test's subscribers write down what they were given."""
    return []
