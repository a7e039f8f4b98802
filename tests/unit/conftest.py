"""A clock that stands still until the test moves it."""

import pytest

from melange.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
