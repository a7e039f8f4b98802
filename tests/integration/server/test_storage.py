"""With a directory for its data, a server has everything again after it has ended, however it ended."""

import json
import sqlite3
from contextlib import closing

import boto3
import pytest

from chaos.server_kills import kill_again_and_again
from melange.errors import ConfigurationError
from melange.server import Server
from melange.server.storage import FILE_NAME
from waiting import eventually


@pytest.fixture
def clients_of():
    """Return boto3's clients for a server, SQS and SNS."""
    made = []

    def make(url: str):
        options = {
            "endpoint_url": url,
            "region_name": "eu-west-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        pair = (boto3.client("sqs", **options), boto3.client("sns", **options))
        made.extend(pair)
        return pair

    yield make
    for client in made:
        client.close()


def url_at(server: Server, queue_name: str = "orders") -> str:
    return f"{server.url}/eu-west-1/000000000000/{queue_name}"


def test_messages_are_there_again_with_their_ids_attributes_and_counts(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        sqs.create_queue(QueueName="orders", Attributes={"VisibilityTimeout": "0"}, tags={"team": "shop"})
        sent = sqs.send_message(
            QueueUrl=url_at(server),
            MessageBody="eins",
            MessageAttributes={"raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}},
        )
        sqs.receive_message(QueueUrl=url_at(server))

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        [message] = sqs.receive_message(
            QueueUrl=url_at(server), AttributeNames=["All"], MessageAttributeNames=["All"]
        )["Messages"]

        assert (message["MessageId"], message["Body"]) == (sent["MessageId"], "eins")
        assert message["MessageAttributes"]["raw"]["BinaryValue"] == b"\x00\xff"
        assert message["Attributes"]["ApproximateReceiveCount"] == "2"
        assert sqs.list_queue_tags(QueueUrl=url_at(server))["Tags"] == {"team": "shop"}


def test_a_message_in_flight_stays_invisible_and_its_handle_is_good(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        sqs.create_queue(QueueName="orders", Attributes={"VisibilityTimeout": "600"})
        sqs.send_message(QueueUrl=url_at(server), MessageBody="1")
        [message] = sqs.receive_message(QueueUrl=url_at(server))["Messages"]

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        again = sqs.receive_message(QueueUrl=url_at(server)).get("Messages", [])
        sqs.delete_message(QueueUrl=url_at(server), ReceiptHandle=message["ReceiptHandle"])
        server.broker.advance(600)
        after_timeout = sqs.receive_message(QueueUrl=url_at(server)).get("Messages", [])

    assert again == after_timeout == []


def test_what_was_deleted_purged_or_received_too_often_is_not_back(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        dead_letters = sqs.create_queue(QueueName="dead")["QueueUrl"]
        redrive = json.dumps(
            {"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:000000000000:dead", "maxReceiveCount": 1}
        )
        sqs.create_queue(QueueName="orders", Attributes={"VisibilityTimeout": "0", "RedrivePolicy": redrive})
        sqs.create_queue(QueueName="purged")
        for body in ("deleted", "poison"):
            sqs.send_message(QueueUrl=url_at(server), MessageBody=body)
        [message] = sqs.receive_message(QueueUrl=url_at(server))["Messages"]
        sqs.delete_message(QueueUrl=url_at(server), ReceiptHandle=message["ReceiptHandle"])
        sqs.receive_message(QueueUrl=url_at(server))
        sqs.receive_message(QueueUrl=url_at(server))
        sqs.send_message(QueueUrl=url_at(server, "purged"), MessageBody="purged")
        sqs.purge_queue(QueueUrl=url_at(server, "purged"))
    del dead_letters

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        found = {
            name: [
                message["Body"]
                for message in sqs.receive_message(QueueUrl=url_at(server, name)).get("Messages", [])
            ]
            for name in ("orders", "purged", "dead")
        }

    assert found == {"orders": [], "purged": [], "dead": ["poison"]}


def test_fifo_queues_keep_their_order_and_know_duplicates(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        sqs.create_queue(QueueName="orders.fifo", Attributes={"FifoQueue": "true"})
        for body in "123":
            sqs.send_message(
                QueueUrl=url_at(server, "orders.fifo"),
                MessageBody=body,
                MessageGroupId="a",
                MessageDeduplicationId=body,
            )

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        queue_url = url_at(server, "orders.fifo")
        for body in "34":
            sqs.send_message(
                QueueUrl=queue_url, MessageBody=body, MessageGroupId="a", MessageDeduplicationId=body
            )
        received = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"])

    messages = received["Messages"]
    assert [message["Body"] for message in messages] == ["1", "2", "3", "4"]
    numbers = [int(message["Attributes"]["SequenceNumber"]) for message in messages]
    assert numbers == sorted(numbers)


def test_a_fifo_topic_of_the_name_of_a_deleted_one_knows_none_of_its_ids(tmp_path, clients_of) -> None:
    topic = {"Name": "orders.fifo", "Attributes": {"FifoTopic": "true"}}
    message = {"Message": "1", "MessageGroupId": "a", "MessageDeduplicationId": "1"}
    with Server(data=tmp_path) as server:
        _, sns = clients_of(server.url)
        topic_arn = sns.create_topic(**topic)["TopicArn"]
        first = sns.publish(TopicArn=topic_arn, **message)
        sns.delete_topic(TopicArn=topic_arn)

    with Server(data=tmp_path) as server:
        _, sns = clients_of(server.url)
        sns.create_topic(**topic)
        second = sns.publish(TopicArn=topic_arn, **message)

    assert second["MessageId"] != first["MessageId"]


def test_the_answer_of_a_receive_attempt_is_not_kept(tmp_path, clients_of) -> None:
    """The page says so: repeated after a restart, the receive gets nothing until the visibility timeout ends."""
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        url = sqs.create_queue(QueueName="orders.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="1", MessageGroupId="a", MessageDeduplicationId="1")
        attempt = {"ReceiveRequestAttemptId": "attempt", "VisibilityTimeout": 600}
        assert len(sqs.receive_message(QueueUrl=url, **attempt)["Messages"]) == 1
        assert len(sqs.receive_message(QueueUrl=url, **attempt)["Messages"]) == 1

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        repeated = sqs.receive_message(QueueUrl=url_at(server, "orders.fifo"), **attempt)
        assert "Messages" not in repeated

        server.broker.advance(600)
        assert len(sqs.receive_message(QueueUrl=url_at(server, "orders.fifo"), **attempt)["Messages"]) == 1


def test_topics_deliver_to_their_subscriptions_by_their_filters_again(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, sns = clients_of(server.url)
        topic_arn = sns.create_topic(Name="orders")["TopicArn"]
        queue_arn = "arn:aws:sqs:eu-west-1:000000000000:orders"
        policy = {
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue_arn,
                }
            ]
        }
        sqs.create_queue(QueueName="orders", Attributes={"Policy": json.dumps(policy)})
        sns.subscribe(
            TopicArn=topic_arn,
            Protocol="sqs",
            Endpoint=queue_arn,
            Attributes={"RawMessageDelivery": "true", "FilterPolicy": '{"kind": ["wanted"]}'},
        )

    with Server(data=tmp_path) as server:
        sqs, sns = clients_of(server.url)
        for kind in ("unwanted", "wanted"):
            sns.publish(
                TopicArn=topic_arn,
                Message=kind,
                MessageAttributes={"kind": {"DataType": "String", "StringValue": kind}},
            )
        received = sqs.receive_message(QueueUrl=url_at(server), MaxNumberOfMessages=10)["Messages"]

    assert [message["Body"] for message in received] == ["wanted"]


def test_ids_are_not_used_twice_and_an_advanced_clock_stays_ahead(tmp_path, clients_of) -> None:
    ids = []
    for _ in range(2):
        with Server(data=tmp_path) as server:
            sqs, _ = clients_of(server.url)
            sqs.create_queue(QueueName="orders")
            sent = sqs.send_message(QueueUrl=url_at(server), MessageBody="1")
            ids.append(sent["MessageId"])
            [message] = sqs.receive_message(QueueUrl=url_at(server))["Messages"]
            sqs.delete_message(QueueUrl=url_at(server), ReceiptHandle=message["ReceiptHandle"])
            server.broker.advance(1_000)
            server.broker.commit(is_topology_changed=True)
            now = server.broker.now()

    with Server(data=tmp_path) as server:
        assert server.broker.now() >= now
    assert len(set(ids)) == 2


def test_a_reset_is_kept(tmp_path, clients_of) -> None:
    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        sqs.create_queue(QueueName="orders")
        sqs.send_message(QueueUrl=url_at(server), MessageBody="forgotten")
        server.broker.reset()
        sqs.create_queue(QueueName="invoices")

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)

        assert sqs.list_queues()["QueueUrls"] == [url_at(server, "invoices")]


def subscribed(sns, url: str) -> str:
    """Make a topic with a confirmed HTTP subscription that tries again after a minute, and return the topic's ARN."""
    topic = sns.create_topic(Name="events")["TopicArn"]
    policy = json.dumps({"healthyRetryPolicy": {"numRetries": 5, "minDelayTarget": 60, "maxDelayTarget": 60}})
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=url, Attributes={"DeliveryPolicy": policy})
    return topic


def test_an_http_delivery_that_failed_is_tried_again_after_a_restart(tmp_path, clients_of, endpoint) -> None:
    with Server(data=tmp_path) as server:
        _, sns = clients_of(server.url)
        topic = subscribed(sns, endpoint.url)
        eventually(lambda: endpoint.received)
        sns.confirm_subscription(TopicArn=topic, Token=json.loads(endpoint.received[0][1])["Token"])
        endpoint.failures = 1
        sns.publish(TopicArn=topic, Message="order 1")
        eventually(lambda: len(endpoint.received) == 2)
        eventually(lambda: server.broker.http_deliveries.pending()[0].failures == 1)

    with Server(data=tmp_path) as server:
        server.broker.advance(60)

        eventually(lambda: len(endpoint.received) == 3)
        assert json.loads(endpoint.received[2][1])["Message"] == "order 1"
        eventually(lambda: not server.broker.http_deliveries.pending())

    with Server(data=tmp_path) as server:
        assert server.broker.http_deliveries.pending() == []


def test_a_delivery_for_a_subscription_that_is_gone_leaves_the_file(tmp_path, clients_of) -> None:
    def kept_deliveries() -> int:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM http_deliveries").fetchone()
        return count

    with Server(data=tmp_path) as server:
        _, sns = clients_of(server.url)
        topic = sns.create_topic(Name="events")["TopicArn"]
        nobody = {"Protocol": "http", "Endpoint": "http://127.0.0.1:1/", "ReturnSubscriptionArn": True}
        sns.unsubscribe(SubscriptionArn=sns.subscribe(TopicArn=topic, **nobody)["SubscriptionArn"])
    assert kept_deliveries() == 1

    with Server(data=tmp_path):
        pass

    assert kept_deliveries() == 0


def test_signatures_of_before_a_restart_stay_good(tmp_path, clients_of, endpoint) -> None:
    with Server(data=tmp_path) as server:
        _, sns = clients_of(server.url)
        subscribed(sns, endpoint.url)
        eventually(lambda: endpoint.received)
        before = server.broker.signer.certificate

    with Server(data=tmp_path) as server:
        assert server.broker.signer.certificate == before


def test_a_message_move_task_goes_on_after_a_restart(tmp_path, clients_of) -> None:
    def status_of(sqs) -> dict:
        return sqs.list_message_move_tasks(SourceArn="arn:aws:sqs:eu-west-1:000000000000:dead")["Results"][0]

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)
        sqs.create_queue(QueueName="dead")
        redrive = {"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:000000000000:dead", "maxReceiveCount": 1}
        sqs.create_queue(QueueName="orders", Attributes={"RedrivePolicy": json.dumps(redrive)})
        for number in range(3):
            sqs.send_message(QueueUrl=url_at(server, "dead"), MessageBody=str(number))
        sqs.start_message_move_task(
            SourceArn="arn:aws:sqs:eu-west-1:000000000000:dead",
            DestinationArn="arn:aws:sqs:eu-west-1:000000000000:orders",
            MaxNumberOfMessagesPerSecond=1,
        )
        eventually(lambda: status_of(sqs)["ApproximateNumberOfMessagesMoved"] == 1)

    with Server(data=tmp_path) as server:
        sqs, _ = clients_of(server.url)

        eventually(lambda: status_of(sqs)["Status"] == "COMPLETED")
        assert status_of(sqs)["ApproximateNumberOfMessagesMoved"] == 3
        found = sqs.receive_message(QueueUrl=url_at(server), MaxNumberOfMessages=10)["Messages"]
        assert sorted(message["Body"] for message in found) == ["0", "1", "2"]


def test_a_directory_serves_one_server_at_a_time(tmp_path) -> None:
    with Server(data=tmp_path), pytest.raises(ConfigurationError, match="One server at a time"):
        Server(data=tmp_path)


def test_a_file_of_something_else_is_left_alone(tmp_path) -> None:
    path = tmp_path / "melange.sqlite"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(ConfigurationError):
        Server(data=tmp_path)

    assert path.read_bytes() == b"not a database" * 100


def test_kills_at_random_moments_lose_nothing_that_was_answered(tmp_path) -> None:
    result = kill_again_and_again(tmp_path, kills=4, seed=1)

    assert result.lost == []
    assert result.sent
    assert result.received


def test_the_check_finds_what_is_lost_without_a_directory(tmp_path) -> None:
    result = kill_again_and_again(tmp_path, kills=1, seed=1, keeps_data=False)

    assert result.lost
