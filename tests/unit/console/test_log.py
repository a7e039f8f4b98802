"""The event log in the console: a search, and what happened to one message."""

from base64 import b64encode


def _published(browser):
    client = browser.client
    topic, orders, audit = client.topic("placed"), client.queue("orders"), client.queue("audit")
    client.subscribe(topic, orders)
    client.subscribe(topic, audit, FilterPolicy='{"kind": ["refund"]}')
    attributes = {"event_type_name": {"DataType": "String", "StringValue": "OrderPlaced"}}
    answer = client.sns("Publish", TopicArn=topic, Message='{"lamps": 2}', MessageAttributes=attributes)
    return orders, answer["MessageId"]


def test_the_log_shows_messages_and_finds_them(browser):
    _published(browser)
    browser.client.send(browser.client.queue("others"), "something else")

    assert "OrderPlaced" in browser.text("log")
    assert "something else" in browser.text("log")
    for query in ("event_type=orderplaced", "text=LAMPS"):
        found = browser.text(f"log?{query}")
        assert "OrderPlaced" in found
        assert "something else" not in found
    assert "Nothing found" in browser.text("log?text=nowhere")


def test_the_page_of_a_message_tells_what_happened_to_it(browser):
    orders, published_id = _published(browser)
    [message] = browser.client.receive(orders)
    browser.client.delete(orders, message)

    text = " ".join(browser.text(f"log/{message['MessageId']}").split())

    assert published_id in text
    assert "Published to topic placed" in text
    assert "Copied to queue orders" in text
    assert 'Filtered out : no copy for audit filter policy {"kind": ["refund"]}' in text
    assert "Received from orders for the 1st time invisible for 30 s · by key test" in text
    assert "Deleted from orders" in text


def test_what_the_console_does_is_in_the_log(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "order")
    arn = browser.client.arn(url)
    [message] = browser.backend.messages(arn).messages

    browser.backend.delete(arn, [message.key])

    text = " ".join(browser.text(f"log/{message.message_id}").split())
    assert "Deleted from orders by the console" in text


def test_a_message_that_the_log_does_not_have_is_not_found(browser):
    response = browser.get("log/6a1f")

    assert response.status == 404
    assert b"has nothing about message" in response.body


def test_a_message_has_the_same_type_in_the_log_and_in_its_queue(browser):
    url = browser.client.queue("orders")
    kind = {"event_type_name": {"DataType": "String", "StringValue": "OrderPlaced"}}
    browser.client.send(url, "order", MessageAttributes=kind)

    assert "OrderPlaced" in browser.text("queues/" + browser.client.arn(url))
    assert "OrderPlaced" in browser.text("log")


def test_a_message_that_was_moved_is_followed_to_the_other_queue(browser):
    url, other = browser.client.queue("orders"), browser.client.queue("others")
    browser.client.send(url, "order")
    arn = browser.client.arn(url)
    [message] = browser.backend.messages(arn).messages
    browser.backend.move(arn, [message.key], browser.client.arn(other))

    [moved] = browser.client.receive(other)

    for message_id in (message.message_id, moved["MessageId"]):
        text = " ".join(browser.text(f"log/{message_id}").split())
        assert "Moved from orders to others by the console" in text
        assert "Received from others for the 1st time" in text


def test_a_task_of_celery_is_found_by_its_name_and_its_arguments(browser):
    orders = browser.client.queue("orders")
    browser.client.send(
        orders, b64encode(b'{"headers": {"task": "shop.tasks.ship", "argsrepr": "(7,)"}}').decode()
    )

    for page in (
        "log?text=(7,)",
        "log?event_type=shop.tasks.ship",
        f"queues/{browser.client.arn(orders)}?text=(7,)",
    ):
        assert "shop.tasks.ship" in browser.text(page)
    [message] = browser.client.receive(orders)
    assert '"argsrepr"' in browser.text(f"log/{message['MessageId']}")
