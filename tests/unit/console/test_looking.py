"""Looking at a queue in the console changes nothing."""


def test_looking_at_messages_does_not_receive_them(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, '{"order": 1}')

    browser.get("queues/" + browser.client.arn(url))
    browser.get("queues/" + browser.client.arn(url))

    [message] = browser.client.receive(url)
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
