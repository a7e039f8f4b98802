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
from botocore.exceptions import ClientError
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


OWNER, OTHER = "111111111111", "222222222222"


def queue_of_owner(server):
    return client(server, "sqs", account=OWNER).create_queue(QueueName="orders")["QueueUrl"]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("send_message", {"MessageBody": "order"}),
        ("send_message_batch", {"Entries": [{"Id": "1", "MessageBody": "order"}]}),
        ("receive_message", {}),
        ("delete_message", {"ReceiptHandle": "any"}),
        ("change_message_visibility", {"ReceiptHandle": "any", "VisibilityTimeout": 0}),
        ("get_queue_attributes", {"AttributeNames": ["All"]}),
        ("set_queue_attributes", {"Attributes": {"DelaySeconds": "1"}}),
        ("list_dead_letter_source_queues", {}),
        ("list_queue_tags", {}),
        ("purge_queue", {}),
        ("delete_queue", {}),
    ],
)
def test_a_queue_is_closed_to_other_accounts(server, operation, parameters):
    url = queue_of_owner(server)

    with pytest.raises(ClientError) as denied:
        getattr(client(server, "sqs", account=OTHER), operation)(QueueUrl=url, **parameters)

    assert denied.value.response["Error"]["Code"] == "AccessDenied"
    assert denied.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_the_address_and_the_move_tasks_of_a_queue_are_closed_to_other_accounts(server):
    queue_of_owner(server)
    stranger = client(server, "sqs", account=OTHER)
    arn = f"arn:aws:sqs:us-east-1:{OWNER}:orders"

    for call in (
        lambda: stranger.get_queue_url(QueueName="orders", QueueOwnerAWSAccountId=OWNER),
        lambda: stranger.start_message_move_task(SourceArn=arn),
        lambda: stranger.list_message_move_tasks(SourceArn=arn),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            call()


def test_a_policy_opens_a_queue_for_an_action_of_another_account(server):
    url = queue_of_owner(server)
    client(server, "sqs", account=OWNER).add_permission(
        QueueUrl=url, Label="other", AWSAccountIds=[OTHER], Actions=["SendMessage", "GetQueueUrl"]
    )
    other = client(server, "sqs", account=OTHER)

    sent = other.send_message_batch(
        QueueUrl=other.get_queue_url(QueueName="orders", QueueOwnerAWSAccountId=OWNER)["QueueUrl"],
        Entries=[{"Id": "1", "MessageBody": "order"}],
    )

    assert len(sent["Successful"]) == 1
    with pytest.raises(ClientError, match="AccessDenied"):
        other.receive_message(QueueUrl=url)


def test_a_policy_for_everybody_gives_no_administration_of_a_queue(server):
    url = queue_of_owner(server)
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": "*"}
    client(server, "sqs", account=OWNER).set_queue_attributes(
        QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [statement]})}
    )
    other = client(server, "sqs", account=OTHER)

    other.send_message(QueueUrl=url, MessageBody="order")

    with pytest.raises(ClientError, match="AccessDenied"):
        other.delete_queue(QueueUrl=url)


def test_the_tags_of_a_topic_are_closed_to_other_accounts(server):
    arn = client(server, "sns", account=OWNER).create_topic(Name="orders")["TopicArn"]
    stranger = client(server, "sns", account=OTHER)

    for call in (
        lambda: stranger.tag_resource(ResourceArn=arn, Tags=[{"Key": "team", "Value": "x"}]),
        lambda: stranger.untag_resource(ResourceArn=arn, TagKeys=["team"]),
        lambda: stranger.list_tags_for_resource(ResourceArn=arn),
    ):
        with pytest.raises(ClientError, match="AuthorizationError"):
            call()


def test_a_subscription_is_closed_to_all_but_its_owner_and_the_owner_of_its_topic(server):
    sns = client(server, "sns", account=OWNER)
    topic = sns.create_topic(Name="orders")["TopicArn"]
    sns.add_permission(TopicArn=topic, Label="other", AWSAccountId=[OTHER], ActionName=["Subscribe"])
    subscriber = client(server, "sns", account=OTHER)
    arn = subscriber.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:us-east-1:{OTHER}:orders",
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    stranger = client(server, "sns", account="333333333333")
    change = {"AttributeName": "RawMessageDelivery", "AttributeValue": "true"}

    subscriber.set_subscription_attributes(SubscriptionArn=arn, **change)

    assert sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]["RawMessageDelivery"] == "true"
    for call in (
        lambda: stranger.get_subscription_attributes(SubscriptionArn=arn),
        lambda: stranger.set_subscription_attributes(SubscriptionArn=arn, **change),
        lambda: stranger.unsubscribe(SubscriptionArn=arn),
    ):
        with pytest.raises(ClientError, match="AuthorizationError"):
            call()
    assert arn in [one["SubscriptionArn"] for one in sns.list_subscriptions()["Subscriptions"]]


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
