"""A harness for each test."""

from __future__ import annotations

import pytest

from melange.testing import Harness


@pytest.fixture
def harness():
    with Harness(seed=1) as harness:
        yield harness
