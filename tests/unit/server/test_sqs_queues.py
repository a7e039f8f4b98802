"""Queues: their attributes, limits, dead letters and move tasks."""

import json

import pytest

from unit.server.given import Client, refused
from waiting import eventually


def dead_letter_pair(client, suffix=""):
    dead = client.queue(f"dead{suffix}")
    policy = json.dumps({"deadLetterTargetArn": client.arn(dead), "maxReceiveCount": 1})
    return client.queue(f"orders{suffix}", RedrivePolicy=policy, VisibilityTimeout="0"), dead


def test_a_dead_letter_keeps_its_id_and_count_and_names_its_source(client):
    url, dead = dead_letter_pair(client)
    client.send(url, "order")
    [received] = client.receive(url)

    assert client.receive(url) == []

    [message] = client.receive(dead)
    assert message["MessageId"] == received["MessageId"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    assert message["Attributes"]["DeadLetterQueueSourceArn"] == client.arn(url)


def test_moved_dead_letters_go_back_to_their_source_as_new_messages(client):
    url, dead = dead_letter_pair(client)
    client.send(url, "one", "two")
    client.receive(url)
    client.receive(url)
    source_arn = client.arn(dead)

    client.sqs("StartMessageMoveTask", SourceArn=source_arn)

    def task():
        [found] = client.sqs("ListMessageMoveTasks", SourceArn=source_arn)["Results"]
        return found

    eventually(lambda: task()["Status"] == "COMPLETED")
    assert task()["ApproximateNumberOfMessagesMoved"] == 2
    messages = client.receive(url)
    assert sorted(message["Body"] for message in messages) == ["one", "two"]
    assert {message["Attributes"]["ApproximateReceiveCount"] for message in messages} == {"1"}


def test_a_move_loses_nothing_while_memory_is_full():
    client = Client(max_bytes=10_000)
    url, dead = dead_letter_pair(client)
    client.send(url, "order")
    client.receive(url, VisibilityTimeout=0)
    assert client.receive(url) == []
    client.broker.max_bytes = 1

    client.sqs("StartMessageMoveTask", SourceArn=client.arn(dead))

    eventually(lambda: client.bodies(url) == ["order"])


def test_a_task_that_has_ended_cannot_be_cancelled(client):
    _, dead = dead_letter_pair(client)
    source_arn = client.arn(dead)
    handle = client.sqs("StartMessageMoveTask", SourceArn=source_arn)["TaskHandle"]
    eventually(
        lambda: (
            client.sqs("ListMessageMoveTasks", SourceArn=source_arn)["Results"][0]["Status"] == "COMPLETED"
        )
    )

    with refused("InvalidParameterValue"):
        client.sqs("CancelMessageMoveTask", TaskHandle=handle)


def test_the_last_ten_tasks_of_a_queue_are_kept(client):
    _, dead = dead_letter_pair(client)
    source_arn = client.arn(dead)
    handles = []

    for _ in range(12):
        handles.append(client.sqs("StartMessageMoveTask", SourceArn=source_arn)["TaskHandle"])
        eventually(lambda: not any(task.is_active for task in client.broker.move_tasks.values()))

    kept = [task.handle for task in client.broker.move_tasks.values()]
    assert kept == handles[2:]
    assert len(client.sqs("ListMessageMoveTasks", SourceArn=source_arn, MaxResults=10)["Results"]) == 10


def test_messages_that_were_sent_to_a_dead_letter_queue_need_a_destination(client):
    _, dead = dead_letter_pair(client)
    client.send(dead, "order")
    source_arn = client.arn(dead)

    client.sqs("StartMessageMoveTask", SourceArn=source_arn)

    def reason():
        [task] = client.sqs("ListMessageMoveTasks", SourceArn=source_arn)["Results"]
        return task.get("FailureReason")

    eventually(lambda: reason() == "CouldNotDetermineMessageSource")
    assert client.bodies(dead) == ["order"]


def test_messages_cannot_be_moved_to_the_queue_where_they_are(client):
    _, dead = dead_letter_pair(client)
    arn = client.arn(dead)

    with refused("InvalidParameterValue"):
        client.sqs("StartMessageMoveTask", SourceArn=arn, DestinationArn=arn)


def test_only_a_dead_letter_queue_can_be_moved(client):
    url = client.queue()

    with refused("InvalidParameterValue"):
        client.sqs("StartMessageMoveTask", SourceArn=client.arn(url))


def test_creating_a_queue_again_compares_what_is_set_now(client):
    client.queue(VisibilityTimeout="10")
    client.sqs("SetQueueAttributes", QueueUrl=client.queue(), Attributes={"VisibilityTimeout": "20"})

    with refused("QueueAlreadyExists"):
        client.queue(VisibilityTimeout="10")

    assert client.queue(VisibilityTimeout="20") == client.queue()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("VisibilityTimeout", "43201", "InvalidAttributeValue"),
        ("VisibilityTimeout", "ten", "InvalidAttributeValue"),
        ("DelaySeconds", "-1", "InvalidAttributeValue"),
        ("MaximumMessageSize", "1023", "InvalidAttributeValue"),
        ("Policy", "no JSON", "InvalidAttributeValue"),
        ("Policy", '{"Statement": ["text"]}', "InvalidAttributeValue"),
        ("Policy", '{"Statement": {"Condition": "text"}}', "InvalidAttributeValue"),
        ("RedrivePolicy", "[]", "InvalidAttributeValue"),
        ("RedrivePolicy", '{"maxReceiveCount": 1}', "InvalidParameterValue"),
        ("RedrivePolicy", '{"deadLetterTargetArn": "none", "maxReceiveCount": 1}', "InvalidParameterValue"),
        ("RedriveAllowPolicy", '{"redrivePermission": "some"}', "InvalidAttributeValue"),
        ("RedriveAllowPolicy", '{"redrivePermission": []}', "InvalidAttributeValue"),
        ("ContentBasedDeduplication", "true", "InvalidAttributeName"),
        ("Colour", "blue", "InvalidAttributeName"),
    ],
)
def test_an_attribute_that_aws_refuses_is_refused(client, name, value, code):
    with refused(code):
        client.queue(**{name: value})


def test_a_queue_may_refuse_to_be_a_dead_letter_queue(client):
    dead = client.queue("dead", RedriveAllowPolicy='{"redrivePermission": "denyAll"}')
    policy = json.dumps({"deadLetterTargetArn": client.arn(dead), "maxReceiveCount": 1})

    with refused("InvalidParameterValue"):
        client.queue(RedrivePolicy=policy)


def test_messages_stay_when_their_dead_letter_queue_is_deleted(client):
    url, dead = dead_letter_pair(client)
    client.send(url, "order")
    client.sqs("DeleteQueue", QueueUrl=dead)

    assert [client.bodies(url) for _ in range(3)] == [["order"]] * 3


def test_sixty_seconds_pass_before_a_name_can_be_used_again_if_the_server_is_strict():
    client = Client(strict=True)
    client.sqs("DeleteQueue", QueueUrl=client.queue())

    with refused("AWS.SimpleQueueService.QueueDeletedRecently"):
        client.queue()

    client.clock.advance(60)
    client.queue()


def test_sixty_seconds_pass_between_purges_if_the_server_is_strict():
    client = Client(strict=True)
    url = client.queue()
    client.sqs("PurgeQueue", QueueUrl=url)

    with refused("AWS.SimpleQueueService.PurgeQueueInProgress"):
        client.sqs("PurgeQueue", QueueUrl=url)

    client.clock.advance(60)
    client.sqs("PurgeQueue", QueueUrl=url)


@pytest.mark.parametrize("name", ["orders", "orders.fifo"])
def test_half_of_a_surrogate_pair_fails_its_own_entry_of_a_batch(client, name):
    url = client.queue(name)
    ids = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if name.endswith(".fifo") else {}
    entries = [{"Id": "1", "MessageBody": "right"} | ids, {"Id": "2", "MessageBody": "\ud800"} | ids]

    answer = client.sqs("SendMessageBatch", QueueUrl=url, Entries=entries)

    assert [failed["Code"] for failed in answer["Failed"]] == ["InvalidMessageContents"]
    assert client.bodies(url) == ["right"]


def test_a_message_with_half_of_a_surrogate_pair_beside_its_body_is_not_kept(client):
    url = client.queue()
    half = {"DataType": "String", "StringValue": "\ud800"}

    for attributes in (
        {"MessageSystemAttributes": {"AWSTraceHeader": half}},
        {"MessageAttributes": {"a": half}},
        {"MessageAttributes": {"a": {"DataType": "String.\ud800", "StringValue": "v"}}},
    ):
        with refused("InvalidParameterValue"):
            client.send(url, "order", **attributes)

    assert client.receive(url) == []


def test_sends_are_refused_while_memory_is_full():
    client = Client(max_bytes=10_000)
    url = client.queue()
    client.send(url, "x" * 5_000)
    [message] = client.receive(url)

    with refused("OverLimit"):
        client.send(url, "x" * 5_000)

    client.delete(url, message)
    client.send(url, "x" * 5_000)


def test_what_expires_gives_its_memory_back(client):
    url = client.queue(MessageRetentionPeriod="60")
    client.send(url, "order")
    client.clock.advance(61)

    assert client.receive(url) == []

    assert client.broker.bytes_kept == 0


def test_a_lost_receive_of_a_fifo_queue_can_be_repeated(client):
    url = client.queue("orders.fifo")
    for number in range(3):
        client.send(url, f"{number}", MessageGroupId="g", MessageDeduplicationId=f"{number}")
    lost = client.receive(url, MaxNumberOfMessages=2, ReceiveRequestAttemptId="attempt")

    repeated = client.receive(url, MaxNumberOfMessages=2, ReceiveRequestAttemptId="attempt")

    assert [one["ReceiptHandle"] for one in repeated] == [one["ReceiptHandle"] for one in lost]


def test_a_duplicate_is_answered_with_the_id_and_number_of_the_first(client):
    url = client.queue("orders.fifo")
    send = {"QueueUrl": url, "MessageGroupId": "g", "MessageDeduplicationId": "d"}

    first = client.sqs("SendMessage", MessageBody="one", **send)
    second = client.sqs("SendMessage", MessageBody="two", **send)

    assert (second["MessageId"], second["SequenceNumber"]) == (first["MessageId"], first["SequenceNumber"])
    assert client.bodies(url) == ["one"]


def test_accounts_and_regions_are_apart(client):
    from melange.server.calls import Caller  # noqa: PLC0415 - beside what it makes

    other_account = Client(client.broker, caller=Caller("x", account="111111111111"))
    other_region = Client(client.broker, caller=Caller("x", region="eu-west-1"))
    client.queue()

    for other in (other_account, other_region):
        with refused("AWS.SimpleQueueService.NonExistentQueue"):
            other.sqs("GetQueueUrl", QueueName="orders")
        assert other.sqs("ListQueues") == {}


def test_queues_of_two_regions_have_two_addresses(client):
    from melange.server.calls import Caller  # noqa: PLC0415 - beside what it makes

    other_region = Client(client.broker, caller=Caller("x", region="eu-west-1"))
    first, second = client.queue(), other_region.queue()
    client.sqs("SendMessage", QueueUrl=first, MessageBody="one")
    other_region.sqs("SendMessage", QueueUrl=second, MessageBody="two")

    assert first != second
    assert "/eu-west-1/" in second
    assert (client.bodies(first), other_region.bodies(second)) == (["one"], ["two"])


def test_a_queue_can_be_named_instead_of_addressed(client):
    client.queue()

    client.send("orders", "order")

    assert client.bodies("orders") == ["order"]


def test_the_scope_of_deduplication_is_that_of_the_creation(client):
    url = client.queue("orders.fifo")
    client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"DeduplicationScope": "messageGroup"})

    for group in ("one", "two"):
        client.send(url, group, MessageGroupId=group, MessageDeduplicationId="same")

    assert client.bodies(url) == ["one"]
