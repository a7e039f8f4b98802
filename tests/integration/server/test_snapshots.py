"""Snapshots: everything that a server has, taken and restored, by name or as a file."""

import json
import subprocess
import sys

import boto3
import pytest

from melange.server import Server


def bodies(sqs, url: str) -> list[str]:
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return sorted(message["Body"] for message in found)


def test_a_restored_snapshot_has_what_there_was_and_nothing_else(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="before")
    control("PUT", "snapshots/start")
    assert bodies(sqs, queue_url) == ["before"]
    sqs.send_message(QueueUrl=queue_url, MessageBody="after")
    other = sqs.create_queue(QueueName="invoices")["QueueUrl"]

    assert control("POST", "snapshots/start/restore") == (200, {})

    assert bodies(sqs, queue_url) == ["before"]
    assert other not in sqs.list_queues()["QueueUrls"]


def test_a_snapshot_can_be_restored_again_and_again(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="before")
    control("PUT", "snapshots/start")

    for _ in range(3):
        control("POST", "snapshots/start/restore")

        assert bodies(sqs, queue_url) == ["before"]


def test_what_was_invisible_is_so_for_as_long_as_it_was(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="in flight")
    [message] = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    sqs.send_message(QueueUrl=queue_url, MessageBody="delayed", DelaySeconds=900)
    control("PUT", "snapshots/start")
    control("POST", "clock/advance", {"seconds": 3_600})

    control("POST", "snapshots/start/restore")

    assert bodies(sqs, queue_url) == []
    control("POST", "clock/advance", {"seconds": 601})
    assert bodies(sqs, queue_url) == ["in flight"]
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
    control("POST", "clock/advance", {"seconds": 300})
    assert bodies(sqs, queue_url) == ["delayed"]


def test_topics_filters_and_deduplication_ids_are_in_it(client, sqs, control) -> None:
    sns = client("sns")
    topic = sns.create_topic(Name="orders.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
    url = sqs.create_queue(QueueName="orders.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = "arn:aws:sqs:eu-west-1:000000000000:orders.fifo"
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [allow]})})
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=arn,
        Attributes={"RawMessageDelivery": "true", "FilterPolicy": '{"kind": ["order"]}'},
    )

    def publish(number: int, kind: str) -> None:
        sns.publish(
            TopicArn=topic,
            Message=f"{kind} {number}",
            MessageGroupId="1",
            MessageDeduplicationId=f"{number}",
            MessageAttributes={"kind": {"DataType": "String", "StringValue": kind}},
        )

    publish(1, "order")
    control("PUT", "snapshots/start")
    control("POST", "reset")
    control("POST", "snapshots/start/restore")

    publish(1, "order")
    publish(2, "invoice")
    publish(3, "order")

    assert bodies(sqs, url) == ["order 1", "order 3"]


def test_a_snapshot_is_a_file_for_another_server(sqs, queue_url, control, server, tmp_path) -> None:
    sqs.send_message(
        QueueUrl=queue_url,
        MessageBody="before",
        MessageAttributes={"raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}},
    )
    control("PUT", "snapshots/start")
    _, file = control("GET", "snapshots/start")
    control("POST", "reset")

    status, described = control("PUT", "snapshots/of-a-file", file)
    control("POST", "snapshots/of-a-file/restore")

    assert (status, described["messages"]) == (201, 1)
    [message] = sqs.receive_message(QueueUrl=queue_url, MessageAttributeNames=["All"])["Messages"]
    assert message["MessageAttributes"]["raw"]["BinaryValue"] == b"\x00\xff"


def test_a_restored_snapshot_is_what_a_directory_has(tmp_path) -> None:
    with Server() as other:
        queue_of(other, "orders", "elsewhere")
        snapshot = other.broker.snapshot()
    with Server(data=tmp_path) as server:
        queue_of(server, "orders", "here")
        server.broker.restore(snapshot)
        server.broker.commit(is_topology_changed=True)

    with Server(data=tmp_path) as server:
        [queue] = server.broker.queues.values()
        assert [copy.message.body for copy in queue.stored.copies] == ["elsewhere"]


def queue_of(server: Server, name: str, body: str) -> None:
    sqs = boto3.client(
        "sqs",
        endpoint_url=server.url,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=body)
    sqs.close()


@pytest.mark.parametrize("file", [{}, {"melange_server_snapshot": 99}, {"melange_server_snapshot": 1}])
def test_a_file_that_is_not_a_snapshot_is_refused(control, file) -> None:
    status, answer = control("PUT", "snapshots/start", file)

    assert status == 400
    assert "snapshot" in answer["error"]


def test_a_damaged_snapshot_changes_nothing(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="before")
    control("PUT", "snapshots/start")
    _, file = control("GET", "snapshots/start")
    file["topology"]["queues"][0]["attributes"]["VisibilityTimeout"] = "long"
    control("PUT", "snapshots/damaged", file)

    status, answer = control("POST", "snapshots/damaged/restore")

    assert status == 400
    assert "damaged" in answer["error"]
    assert bodies(sqs, queue_url) == ["before"]


def test_a_snapshot_with_a_damaged_filter_changes_nothing(client, sqs, queue_url, control) -> None:
    sns = client("sns")
    topic = sns.create_topic(Name="events")["TopicArn"]
    endpoint = "arn:aws:sqs:eu-west-1:000000000000:orders"
    filtered = {"FilterPolicy": '{"colour": ["red"]}'}
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=endpoint, Attributes=filtered)
    control("PUT", "snapshots/start")
    _, file = control("GET", "snapshots/start")
    file["topology"]["subscriptions"][0]["attributes"]["FilterPolicy"] = '{"colour": []}'
    control("PUT", "snapshots/damaged", file)

    status, answer = control("POST", "snapshots/damaged/restore")

    assert status == 400
    assert "damaged" in answer["error"]
    [left] = sns.list_subscriptions()["Subscriptions"]
    assert left["SubscriptionArn"] == subscription["SubscriptionArn"]


def test_a_snapshot_needs_no_library_for_signatures() -> None:
    program = """
import sys
sys.modules["cryptography"] = None
from melange.server import Broker
broker = Broker()
broker.restore(broker.snapshot())
"""

    subprocess.run([sys.executable, "-c", program], check=True)


def test_snapshots_are_listed_and_deleted(control) -> None:
    control("PUT", "snapshots/start")

    assert [one["name"] for one in control("GET", "snapshots")[1]] == ["start"]
    assert control("DELETE", "snapshots/start") == (200, {})
    assert control("GET", "snapshots/start")[0] == 404
    assert control("POST", "snapshots/start/restore")[0] == 404
