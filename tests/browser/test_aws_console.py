"""``melange console`` in Chromium, over a server that stands for AWS."""

import boto3
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from melange.console.aws import AwsBackend
from melange.console.console import ConsoleServer
from melange.drivers.aws import AwsDriver
from melange.server import Server
from melange.server.control import CONSOLE_PREFIX


@pytest.fixture
def server():
    with Server() as server:  # on the real clock, since a look waits for messages
        yield server


@pytest.fixture
def console(server):
    access = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    with (
        AwsDriver(session=boto3.Session(**access), endpoint_url=server.url) as driver,
        ConsoleServer(AwsBackend(driver)) as console,
    ):
        yield console


def test_a_look_happens_on_a_click_and_pages_meet_wcag_aa(given, console, page):
    _, dead = given.queue_with_dead_letters()
    given.send(dead, '{"lamps": 2}')
    page.goto(console.url)
    expect(page.get_by_role("link", name="Event log")).to_have_count(0)
    page.goto(f"{console.url}{CONSOLE_PREFIX}queues/{given.arn(dead)}")
    expect(page.locator(".message-link")).to_have_count(0)
    found = list(Axe().run(page).response["violations"])

    page.get_by_role("button", name="Look").first.click()
    page.locator(".message-link").click()

    expect(page.locator("pre.body")).to_contain_text('"lamps": 2')
    found += Axe().run(page).response["violations"]
    assert found == []
    [message] = given.receive(dead)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
