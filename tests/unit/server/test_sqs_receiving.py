"""Who may settle a message: the rules of SQS, which are looser than those of the in-memory driver."""

import pytest

from unit.server.given import refused


def test_a_standard_queue_takes_every_handle_that_it_gave_for_a_message(client):
    url = client.queue(VisibilityTimeout="10")
    client.send(url, "order")
    [first] = client.receive(url)
    client.clock.advance(11)
    client.receive(url)

    client.delete(url, first)

    client.clock.advance(11)
    assert client.receive(url) == []


def test_a_handle_whose_visibility_has_expired_hides_the_message_again(client):
    url = client.queue(VisibilityTimeout="10")
    client.send(url, "one", "two")
    [one, two] = client.receive(url)
    client.clock.advance(11)

    client.sqs(
        "ChangeMessageVisibility", QueueUrl=url, ReceiptHandle=one["ReceiptHandle"], VisibilityTimeout=30
    )

    assert client.bodies(url) == ["two"]
    client.clock.advance(31)
    assert client.bodies(url) == ["two", "one"]
    assert two["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_fifo_queue_refuses_an_expired_handle(client):
    url = client.queue("orders.fifo", VisibilityTimeout="10")
    client.send(url, "order", MessageGroupId="g", MessageDeduplicationId="d")
    [message] = client.receive(url)
    client.clock.advance(11)

    with refused("InvalidParameterValue"):
        client.delete(url, message)

    assert client.bodies(url) == ["order"]


@pytest.mark.parametrize("handle", ["garbage", "1-1-00000000000000000000000000000000", "1-1", "-"])
def test_a_handle_that_the_queue_never_gave_is_refused(client, handle):
    url = client.queue()
    client.send(url, "order")

    with refused("ReceiptHandleIsInvalid"):
        client.sqs("DeleteMessage", QueueUrl=url, ReceiptHandle=handle)


def test_the_handle_of_another_queue_is_refused(client):
    url, other = client.queue(), client.queue("other")
    client.send(url, "order")
    [message] = client.receive(url)

    with refused("ReceiptHandleIsInvalid"):
        client.delete(other, message)


def test_deleting_twice_succeeds(client):
    url = client.queue()
    client.send(url, "order")
    [message] = client.receive(url)

    client.delete(url, message, message)

    assert client.broker.bytes_kept == 0


def test_a_visibility_beyond_twelve_hours_from_the_receipt_is_refused(client):
    url = client.queue()
    client.send(url, "order")
    [message] = client.receive(url, VisibilityTimeout=43_200)
    client.clock.advance(60)

    with refused("InvalidParameterValue"):
        client.sqs(
            "ChangeMessageVisibility",
            QueueUrl=url,
            ReceiptHandle=message["ReceiptHandle"],
            VisibilityTimeout=43_200,
        )


def test_an_expired_message_that_is_deleted_leaves_the_count_of_its_tenant_right(client):
    url = client.queue(VisibilityTimeout="10")
    for _ in range(35):
        client.send(url, "noisy", MessageGroupId="noisy")
    held = [message for _ in range(4) for message in client.receive(url)]
    client.clock.advance(11)
    client.delete(url, *held)

    client.send(url, "noisy", MessageGroupId="noisy")
    client.send(url, "quiet", MessageGroupId="quiet")

    assert client.bodies(url) == ["noisy", "quiet"]


def test_a_receive_returns_nothing_if_waits_end_just_before_it_waits(client):
    queue = client.queue()
    client.broker.lock = LockThatEndsWaits(client, queue)

    assert client.receive(queue, WaitTimeSeconds=1) == []


class LockThatEndsWaits:
    """When it is first released, waits are ended, and a message arrives that a later receive has to get."""

    def __init__(self, client, queue):
        self._client, self._queue, self._lock = client, queue, client.broker.lock

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()
        self._client.broker.lock = self._lock
        with self._lock:
            for queue in self._client.broker.queues.values():
                queue.stored.end_waits()
        self._client.send(self._queue, "later")
