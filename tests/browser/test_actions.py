"""Each action of the console, done with a mouse in a real browser."""

import json
import re

import pytest
from playwright.sync_api import expect

from melange.server.control import CONSOLE_PREFIX
from waiting import eventually


@pytest.fixture
def open_page(page, server):
    """Open a page of the console."""

    def go(path: str = ""):
        page.goto(path if path.startswith("http") else server.url + CONSOLE_PREFIX + path)
        return page

    return go


def test_the_overview_lists_queues_and_draws_how_they_are_connected(given, open_page):
    orders, _ = given.queue_with_dead_letters()
    given.topic_for(orders)
    given.send(orders, "order 1")

    page = open_page()

    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".graph svg .node")).to_have_count(3)
    expect(page.get_by_role("row", name="orders 1")).to_be_visible()


def test_a_new_queue_appears_without_reloading(given, open_page):
    given.queue("first")
    page = open_page()

    given.queue("second")

    expect(page.get_by_role("row").filter(has_text="second").first).to_be_visible()


def test_a_look_at_a_message_does_not_receive_it(given, open_page):
    url = given.queue()
    given.send(url, '{"lamps": 2}', event_type_name="OrderPlaced")
    page = open_page()
    page.get_by_role("row").get_by_role("link", name="orders", exact=True).first.click()

    page.locator(".message-link").click()

    expect(page.locator("pre.body")).to_contain_text('"lamps": 2')
    [message] = given.receive(url)
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_message_in_flight_says_for_how_long_and_can_be_released(given, open_page):
    url = given.queue(VisibilityTimeout="300")
    given.send(url, "order 1")
    given.receive(url)
    page = open_page(given.page_of(url))
    page.locator(".message-link").click()
    expect(page.locator("#state")).to_contain_text("visible again in 5 min")

    page.get_by_role("button", name="Make visible now").click()

    expect(page.locator("#state")).to_contain_text("visible")
    assert [message["Body"] for message in given.receive(url)] == ["order 1"]


def test_a_message_is_sent_with_the_last_one_as_a_template(given, open_page):
    url = given.queue()
    given.send(url, '{"lamps": 2}', colour="blue")
    page = open_page(given.page_of(url))
    page.get_by_role("link", name="Send a message").click()
    body = page.get_by_label("Body")
    expect(body).to_have_value('{\n  "lamps": 2\n}')

    body.fill('{"lamps": 3}')
    page.get_by_role("button", name="Send").click()

    expect(page.locator(".notice")).to_be_visible()
    messages = given.receive(url)
    assert [json.loads(message["Body"]) for message in messages] == [{"lamps": 2}, {"lamps": 3}]
    assert messages[1]["MessageAttributes"]["colour"]["StringValue"] == "blue"


def test_a_message_is_published_and_found_in_the_log(given, open_page):
    url = given.queue()
    topic = given.topic_for(url, RawMessageDelivery="true")
    page = open_page(f"topics/{topic}/publish")

    page.get_by_label("Body").fill('{"greeting": "hello queues"}')
    page.get_by_role("button", name="Publish").click()
    expect(page.locator(".notice")).to_contain_text("Published: message")
    page.get_by_role("link", name="Event log").click()
    page.get_by_placeholder("Text").fill("HELLO")
    page.get_by_role("button", name="Search").click()
    page.locator(".message-link").click()

    expect(page.locator(".timeline li")).to_have_count(2)
    expect(page.locator(".timeline")).to_contain_text("Copied to queue orders")
    assert [message["Body"] for message in given.receive(url)] == ['{"greeting": "hello queues"}']


def test_dead_letters_are_grouped_and_retried(given, open_page):
    url, dead = given.queue_with_dead_letters()
    given.dead_letter(url, "order 1")
    page = open_page("dead-letters")
    expect(page.locator("main")).to_contain_text("orders-dead-letters")
    page.goto(given.page_of(dead))

    page.get_by_role("checkbox").check()
    page.locator(".selected").get_by_role("button", name="Retry").click()

    expect(page.locator(".notice")).to_contain_text("1 message moved back")
    assert [message["Body"] for message in given.receive(url)] == ["order 1"]
    assert given.receive(dead) == []


def test_selected_messages_are_moved_to_another_queue(given, open_page):
    url, other = given.queue(), given.queue("others")
    given.send(url, "order 1")
    page = open_page(given.page_of(url))

    page.get_by_role("checkbox").check()
    page.get_by_label("Move to").select_option(label="others")
    page.get_by_role("button", name="Move", exact=True).click()

    expect(page.locator(".notice")).to_contain_text("1 message moved to others")
    assert [message["Body"] for message in given.receive(other)] == ["order 1"]


def test_messages_are_deleted_after_a_question(given, open_page):
    url = given.queue()
    given.send(url, "order 1")
    page = open_page(given.page_of(url))

    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete 1 message?")
    page.get_by_role("button", name="Delete", exact=True).click()

    expect(page.locator(".notice")).to_contain_text("1 message deleted")
    assert given.receive(url) == []


@pytest.mark.parametrize("is_sure", [True, False])
def test_a_queue_is_purged_only_after_a_question(given, open_page, is_sure):
    url = given.queue()
    given.send(url, "order 1")
    page = open_page(given.page_of(url))

    page.get_by_role("link", name="Purge…").click()
    if is_sure:
        page.get_by_role("button", name="Purge").click()
    else:
        page.get_by_role("link", name="Cancel").click()

    expect(page).to_have_url(re.compile(r"/queues/[^/]+$"))
    assert [message["Body"] for message in given.receive(url)] == ([] if is_sure else ["order 1"])


def test_a_queue_is_deleted_after_a_question(given, open_page):
    page = open_page(given.page_of(given.queue()))

    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete").click()

    expect(page.locator(".notice")).to_be_visible()
    assert "QueueUrls" not in given.sqs.list_queues()


def test_a_fault_strikes_until_it_is_removed(given, server, open_page):
    given.queue()
    page = open_page("faults")

    page.get_by_label("What happens").select_option("error")
    page.get_by_label("Operation").select_option("SendMessage")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#faults")).to_contain_text("SendMessage")
    assert [fault.kind for fault in server.faults.all()] == ["error"]
    page.get_by_role("button", name="Remove").click()

    expect(page.locator("#faults")).to_contain_text("No faults")
    assert server.faults.all() == []


def test_the_clock_ends_a_visibility_timeout(given, open_page):
    url = given.queue(VisibilityTimeout="300")
    given.send(url, "order 1")
    given.receive(url)
    page = open_page("faults")

    page.get_by_role("button", name="+ 5 min").click()

    expect(page.locator(".notice")).to_contain_text("5 min ahead")
    assert eventually(lambda: [message["Body"] for message in given.receive(url)]) == ["order 1"]


def test_standard_queues_deliver_twice_on_request(given, server, open_page):
    page = open_page("faults")

    page.get_by_label("Delivered twice, in percent").fill("100")
    page.get_by_role("button", name="Apply").click()

    expect(page.locator(".notice")).to_be_visible()
    assert server.broker.disorder.duplicates == 1
    url = given.queue()
    given.send(url, "order 1")
    assert [message["Body"] for message in given.receive(url)] == ["order 1", "order 1"]


def test_a_reset_empties_the_server_after_a_question(given, open_page):
    given.queue()
    page = open_page("faults")

    page.get_by_role("link", name="Reset…").click()
    page.get_by_role("button", name="Reset").click()

    expect(page.locator(".notice")).to_contain_text("The server is empty")
    assert "QueueUrls" not in given.sqs.list_queues()


def test_a_snapshot_is_taken_and_restored(given, open_page):
    url = given.queue()
    given.send(url, "order 1")
    page = open_page("faults")
    page.get_by_label("Name", exact=True).fill("before")
    page.get_by_role("button", name="Take a snapshot").click()
    expect(page.locator(".notice")).to_be_visible()
    given.sqs.purge_queue(QueueUrl=url)

    page.get_by_role("link", name="Restore").click()
    page.get_by_role("button", name="Restore").click()

    expect(page.locator(".notice")).to_be_visible()
    assert [message["Body"] for message in given.receive(url)] == ["order 1"]


def test_a_queue_is_reached_and_purged_with_the_keyboard_alone(given, open_page):
    url = given.queue()
    given.send(url, "order 1")
    page = open_page()

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.textContent.trim()")
            if focused == name:
                outline = page.evaluate(
                    "(style => style.outlineStyle + ' ' + style.boxShadow)(getComputedStyle(document.activeElement))"
                )
                assert outline != "none none", f"the focus on {name} cannot be seen"
                return
        raise AssertionError(f"{name} cannot be reached with the Tab key")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    tab_to("orders")
    page.keyboard.press("Enter")
    page.wait_for_url("**/queues/**")
    tab_to("Purge…")
    page.keyboard.press("Enter")
    page.wait_for_url("**/purge")
    tab_to("Purge")
    page.keyboard.press("Enter")

    expect(page.locator(".notice")).to_be_visible()
    assert given.receive(url) == []
