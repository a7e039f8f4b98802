"""A broker whose answers each test makes up."""

import pytest

from aws_answers import CannedBroker


@pytest.fixture
def broker() -> CannedBroker:
    return CannedBroker()
