"""Looking at queues and messages in the console: nothing is touched, and all is said."""

import json

import pytest

from melange.console.model import MessageQuery


def test_looking_at_messages_does_not_receive_them(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, '{"order": 1}')
    arn = browser.client.arn(url)

    for _ in range(2):
        [message] = browser.backend.messages(arn).messages
        browser.get(f"queues/{arn}")
        browser.get(f"queues/{arn}/messages/{message.key}")

    [received] = browser.client.receive(url)
    assert received["Attributes"]["ApproximateReceiveCount"] == "1"


def test_looking_does_not_make_a_message_in_flight_visible(browser):
    url = browser.client.queue("orders", VisibilityTimeout="30")
    browser.client.send(url, "order 1")
    browser.client.receive(url)

    text = browser.text("queues/" + browser.client.arn(url))

    assert "visible again in 30 s" in text
    assert browser.client.receive(url) == []


def test_a_message_whose_visibility_timeout_has_passed_is_shown_as_visible(browser):
    url = browser.client.queue("orders", VisibilityTimeout="30")
    browser.client.send(url, "order 1")
    browser.client.receive(url)

    browser.client.clock.advance(31)

    [message] = browser.backend.messages(browser.client.arn(url)).messages
    assert (message.state, message.receive_count) == ("visible", 1)


def test_a_delayed_message_says_when_it_is_visible(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "order 1", DelaySeconds=90)

    assert "visible in 1 min 30 s" in browser.text("queues/" + browser.client.arn(url))


def test_a_message_behind_an_invisible_one_of_its_group_is_blocked_by_it(browser):
    url = browser.client.queue("orders.fifo", ContentBasedDeduplication="true")
    browser.client.send(url, "1", "2", MessageGroupId="a")
    browser.client.send(url, "3", MessageGroupId="b")
    browser.client.receive(url, MaxNumberOfMessages=1)

    first, second, third = browser.backend.messages(browser.client.arn(url)).messages

    assert [first.state, second.state, third.state] == ["in flight", "blocked", "visible"]
    assert second.blocked_by == first.key


def test_messages_come_in_pages(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, *map(str, range(5)))
    arn = browser.client.arn(url)

    first = browser.backend.messages(arn, MessageQuery(limit=3))
    second = browser.backend.messages(arn, MessageQuery(limit=3, after=first.next_key))

    assert [message.body for message in first.messages] == ["0", "1", "2"]
    assert [message.body for message in second.messages] == ["3", "4"]
    assert second.next_key is None


@pytest.mark.parametrize("name", ["orders", "orders.fifo"])
def test_messages_come_with_the_newest_first(browser, name):
    group = {"MessageGroupId": "a"} if name.endswith(".fifo") else {}
    url = browser.client.queue(name, **({"ContentBasedDeduplication": "true"} if group else {}))
    browser.client.send(url, *map(str, range(5)), **group)
    arn = browser.client.arn(url)

    first = browser.backend.messages(arn, MessageQuery(limit=3, newest_first=True))
    second = browser.backend.messages(arn, MessageQuery(limit=3, newest_first=True, after=first.next_key))

    assert [message.body for message in first.messages] == ["4", "3", "2"]
    assert [message.body for message in second.messages] == ["1", "0"]


@pytest.mark.parametrize("text", ["tea", "ORDER 2", "kind Sale", "000000000002"])
def test_a_search_finds_text_in_bodies_attributes_and_ids(browser, text):
    url = browser.client.queue("orders")
    kind = {"kind": {"DataType": "String", "StringValue": "sale"}}
    browser.client.send(url, "order 1")
    browser.client.send(url, "order 2: tea", MessageAttributes=kind)

    found = browser.backend.messages(browser.client.arn(url), MessageQuery(text=text))

    assert [message.body for message in found.messages] == ["order 2: tea"]


def test_messages_are_filtered_by_state(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "1", "2")
    browser.client.receive(url, MaxNumberOfMessages=1)

    found = browser.backend.messages(browser.client.arn(url), MessageQuery(state="in flight"))

    assert [message.body for message in found.messages] == ["1"]


def test_messages_that_are_too_old_are_not_shown(browser):
    url = browser.client.queue("orders", MessageRetentionPeriod="60")
    browser.client.send(url, "order 1")

    browser.client.clock.advance(61)

    assert browser.backend.messages(browser.client.arn(url)).messages == []


def test_the_envelope_of_sns_is_taken_off(browser):
    topic, url = browser.client.topic(), browser.client.queue("orders")
    browser.client.subscribe(topic, url, RawMessageDelivery="false")
    browser.client.sns("Publish", TopicArn=topic, Message='{"price":1.10}', Subject="Offer")
    arn = browser.client.arn(url)

    [message] = browser.backend.messages(arn).messages
    text = browser.text(f"queues/{arn}/messages/{message.key}")

    assert " ".join(text.split()).count('{ "price" : 1.10 }') == 1
    assert "with the subject “Offer”" in text


def test_an_overview_has_topics_queues_and_bindings(browser):
    topic, url = browser.client.topic("events"), browser.client.queue("orders")
    browser.client.subscribe(topic, url, FilterPolicy=json.dumps({"kind": ["sale"]}))

    overview = browser.backend.overview()

    [binding] = overview.bindings
    assert (binding.topic_arn, binding.endpoint) == (topic, browser.client.arn(url))
    assert binding.filter_policy == '{"kind": ["sale"]}'
    assert "events to orders: filtered" in browser.text()


def test_an_empty_server_says_how_to_begin(browser):
    assert "AWS_ENDPOINT_URL=http://localhost:4566" in browser.text()


def test_pages_say_what_does_not_exist(browser):
    for path in (
        "queues/arn:aws:sqs:us-east-1:000000000000:none",
        "topics/none",
        "queues/none/messages/1",
        "nothing",
        "assets/../console.py",
        "assets/none.css",
    ):
        assert browser.get(path).status == 404


def test_characters_that_cannot_be_seen_are_shown_as_escapes(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "pay \u202eeroM\u202c now\x85\u200b")
    arn = browser.client.arn(url)

    [message] = browser.backend.messages(arn).messages
    page = browser.get(f"queues/{arn}/messages/{message.key}").body.decode()

    assert not set("\u202e\u202c\x85\u200b") & set(page)
    assert all(f">{escape}</span>" in page for escape in ("\\u202e", "\\u202c", "\\x85", "\\u200b"))


def test_accounts_are_told_apart_where_there_are_several(browser):
    browser.client.queue("orders")
    assert "us-east-1" not in browser.text().replace(browser.client.arn("orders"), "")
    browser.client.caller = browser.client.caller._replace(region="eu-west-1")

    browser.client.queue("orders")

    assert "eu-west-1 000000000000" in browser.text()


def test_a_subscription_that_delivers_nothing_says_why(browser):
    topic, url = browser.client.topic("events"), browser.client.queue("orders")
    browser.client.subscribe(topic, url)
    browser.client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": ""})

    assert "policy of the queue does not allow the topic to send" in browser.text(f"topics/{topic}")
    browser.client.sqs("DeleteQueue", QueueUrl=url)
    assert "The queue does not exist." in browser.text(f"topics/{topic}")


def test_the_policy_that_a_topic_shows_lets_it_send(browser):
    topic, url = browser.client.topic("events"), browser.client.queue("orders")
    browser.client.subscribe(topic, url)
    browser.client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": ""})

    page = browser.text(f"topics/{topic}").partition("How to allow it")[2]
    policy, _ = json.JSONDecoder().raw_decode(page[page.index("{") :])
    browser.client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    browser.client.sns("Publish", TopicArn=topic, Message="order 1")

    assert len(browser.client.receive(url)) == 1
    assert "How to allow it" not in browser.text(f"topics/{topic}")


def test_many_topics_and_queues_are_searched_by_name(browser):
    for number in range(70):
        browser.client.queue(f"queue-{number}")
    topic = browser.client.topic("orders")
    browser.client.subscribe(topic, "queue-33")

    everything, found = browser.text(), browser.text("?name=ORD")

    assert "Show the graph of 71 topics and queues" in everything
    assert "orders to queue-33" in found
    assert "queue-34" not in found
    assert "No topic or queue has this in its name." in browser.text("?name=none")


def test_a_message_with_no_receives_left_is_not_said_to_be_returned(browser):
    dead = browser.client.arn(browser.client.queue("dlq"))
    policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 2})
    arn = browser.client.arn(browser.client.queue("orders", RedrivePolicy=policy))
    browser.client.send("orders", "order 1")
    [message] = browser.backend.messages(arn).messages
    page = f"queues/{arn}/messages/{message.key}"
    browser.client.receive("orders", VisibilityTimeout=0)
    assert "The next receive may return it." in browser.text(page)

    browser.client.receive("orders", VisibilityTimeout=0)

    assert "The next receive may return it." not in browser.text(page)
    assert "The next receive moves it to the dead letters in dlq" in " ".join(browser.text(page).split())


def test_a_dead_letter_that_the_broker_moved_has_no_time_of_its_failure(browser):
    dead = browser.client.arn(browser.client.queue("dlq"))
    policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 1})
    browser.client.queue("orders", RedrivePolicy=policy)
    browser.client.send("orders", "order 1")
    browser.client.receive("orders", VisibilityTimeout=0)
    browser.client.receive("orders")

    [message] = browser.backend.messages(dead).messages
    text = browser.text(f"queues/{dead}/messages/{message.key}")

    assert "received too often" in text
    assert "Since" not in text
    assert "since it was sent" in " ".join(browser.text("dead-letters").split())


def test_a_dead_letter_of_a_consumer_has_the_time_of_its_failure(browser):
    url = browser.client.queue("orders-dlq")
    note = json.dumps({"reason": "no lines", "rejected_at": "2026-01-01T11:00:00+00:00"})
    attributes = {"melange-dead-letter": {"DataType": "String", "StringValue": note}}
    browser.client.send(url, "order 1", MessageAttributes=attributes)

    page = browser.text("dead-letters")

    assert "no lines" in page
    assert "since it was sent" not in page
