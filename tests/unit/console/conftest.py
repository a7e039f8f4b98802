import pytest

from unit.console.given import Browser


@pytest.fixture
def browser():
    browser = Browser()
    yield browser
    browser.console.close()
