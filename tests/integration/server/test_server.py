"""``melange.server`` behind its port, with boto3."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64decode
from urllib.parse import urlsplit
from urllib.request import urlopen

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from melange.server import Server, find_stories
from waiting import eventually


def client(server, service, region="us-east-1", account="test"):
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=region,
        aws_access_key_id=account,
        aws_secret_access_key="x",
    )


def receive_request(url, wait_seconds):
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": wait_seconds}).encode()
    head = (
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def waiting_receives(server):
    with server.broker.lock:
        return sum(len(queue.stored.waiters) for queue in server.broker.queues.values())


def test_a_receive_whose_client_is_gone_takes_no_message(server):
    sqs = client(server, "sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as gone:
        gone.sendall(receive_request(url, 20))
        eventually(lambda: waiting_receives(server) == 1)

    sqs.send_message(QueueUrl=url, MessageBody="order")

    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == "order"


def test_the_next_receiver_is_woken_when_the_first_is_gone(server):
    sqs = client(server, "sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    address = urlsplit(server.url)
    received = []
    with socket.create_connection((address.hostname, address.port)) as gone:
        gone.sendall(receive_request(url, 20))
        eventually(lambda: waiting_receives(server) == 1)
        receiver = threading.Thread(
            target=lambda: received.extend(sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"])
        )
        receiver.start()
        eventually(lambda: waiting_receives(server) == 2)

    client(server, "sqs").send_message(QueueUrl=url, MessageBody="order")

    receiver.join(timeout=10)
    assert [message["Body"] for message in received] == ["order"]


def test_closing_the_server_ends_receives_that_wait():
    with Server() as server:
        sqs = client(server, "sqs")
        url = sqs.create_queue(QueueName="orders")["QueueUrl"]
        address = urlsplit(server.url)
        waiting = socket.create_connection((address.hostname, address.port))
        waiting.sendall(receive_request(url, 20))
        eventually(lambda: waiting_receives(server) == 1)

    with waiting:
        waiting.settimeout(5)
        eventually(lambda: waiting.recv(65_536) == b"")


def test_accounts_and_regions_are_apart(server):
    url = client(server, "sqs", account="111111111111").create_queue(QueueName="orders")["QueueUrl"]

    assert url.endswith("/111111111111/orders")
    assert client(server, "sts", account="111111111111").get_caller_identity()["Account"] == "111111111111"
    for other in (client(server, "sqs"), client(server, "sqs", "eu-west-1", "111111111111")):
        assert "QueueUrls" not in other.list_queues()


def test_what_cannot_be_read_is_answered_and_the_connection_closed(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        connection.settimeout(10)

        answer = b""
        while received := connection.recv(65_536):
            answer += received

    assert answer.startswith(b"HTTP/1.1 400 ")


def verify(document, server):
    url = document["SigningCertURL"]
    assert url.startswith(server.url)
    certificate = x509.load_pem_x509_certificate(urlopen(url).read())
    names = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    text = "".join(f"{name}\n{document[name]}\n" for name in names if name in document)
    digest = hashes.SHA256() if document["SignatureVersion"] == "2" else hashes.SHA1()
    certificate.public_key().verify(
        b64decode(document["Signature"]), text.encode(), padding.PKCS1v15(), digest
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_http_subscription_is_confirmed_and_gets_signed_notifications(server, endpoint, version):
    sns = client(server, "sns")
    topic = sns.create_topic(Name="events", Attributes={"SignatureVersion": version})["TopicArn"]
    pending = sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=endpoint.url)["SubscriptionArn"]
    sns.publish(TopicArn=topic, Message="too early")
    eventually(lambda: endpoint.received)
    confirmation = json.loads(endpoint.received[0][1])

    urlopen(confirmation["SubscribeURL"]).read()
    sns.publish(TopicArn=topic, Message="order", Subject="new")

    eventually(lambda: len(endpoint.received) == 2)
    headers, body = endpoint.received[1]
    notification = json.loads(body)
    assert pending == "pending confirmation"
    assert (notification["Message"], notification["Subject"]) == ("order", "new")
    assert headers["x-amz-sns-message-type"] == "Notification"
    verify(confirmation, server)
    verify(notification, server)


def test_a_notification_that_fails_is_tried_again_and_then_dead_lettered(server, endpoint):
    sns, sqs = client(server, "sns"), client(server, "sqs")
    topic = sns.create_topic(Name="events")["TopicArn"]
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    subscription = sns.subscribe(
        TopicArn=topic,
        Protocol="http",
        Endpoint=endpoint.url,
        Attributes={
            "RawMessageDelivery": "true",
            "DeliveryPolicy": json.dumps({"healthyRetryPolicy": {"numRetries": 1, "minDelayTarget": 0}}),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead"}),
        },
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    eventually(lambda: endpoint.received)
    sns.confirm_subscription(TopicArn=topic, Token=json.loads(endpoint.received[0][1])["Token"])
    endpoint.failures = 3

    sns.publish(TopicArn=topic, Message="lost")

    [message] = sqs.receive_message(QueueUrl=dead, WaitTimeSeconds=10)["Messages"]
    assert message["Body"] == "lost"
    assert len(endpoint.received) == 3
    [story] = find_stories(server.broker, text="lost")
    assert [(event.kind, event.reason) for event in story.events] == [
        ("published", ""),
        ("HTTP delivery failed", "status 503"),
        ("HTTP delivery failed", "status 503"),
        ("not delivered", "status 503"),
        ("sent", ""),
        ("received", ""),
    ]
    assert (
        sns.get_subscription_attributes(SubscriptionArn=subscription)["Attributes"]["PendingConfirmation"]
        == "false"
    )
