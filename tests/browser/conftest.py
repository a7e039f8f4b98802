"""A Chromium that looks at a server's console. Without Chromium the tests are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import boto3
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, sync_playwright

from browser.given import Given
from melange.server import Broker, Server
from melange.server.control import CONSOLE_PREFIX
from melange.testing import ManualClock

_ARGUMENTS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Broker(clock=ManualClock())) as server:
        yield server


@pytest.fixture
def given(server: Server) -> Iterator[Given]:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    given = Given(
        server,
        boto3.client("sqs", endpoint_url=server.url, **keys),
        boto3.client("sns", endpoint_url=server.url, **keys),
    )
    yield given
    given.sqs.close()
    given.sns.close()


@pytest.fixture
def context(chromium: Chromium) -> Iterator[BrowserContext]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Iterator[Page]:
    """The overview. At the end, nothing must have been written to the browser's console and no dialog opened."""
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda line: troubles.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(server.url + CONSOLE_PREFIX)
    yield page
    assert troubles == []
