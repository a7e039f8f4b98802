import pytest

from unit.server.given import Client


@pytest.fixture
def client() -> Client:
    return Client()
