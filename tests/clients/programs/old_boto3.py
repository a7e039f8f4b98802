"""boto3 of 2023, which speaks to SQS by the Query protocol. Argument: the server's URL."""

import json
import sys

import boto3

options = {"endpoint_url": sys.argv[1], "region_name": "eu-west-1"}
sqs, sns = boto3.client("sqs", **options), boto3.client("sns", **options)
assert sqs.meta.service_model.metadata["protocol"] == "query"

dead = sqs.create_queue(QueueName="old-dead", tags={"team": "shop"})["QueueUrl"]
dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
assert dead_arn.split(":")[3] == "eu-west-1"
queue = sqs.create_queue(
    QueueName="old",
    Attributes={
        "VisibilityTimeout": "0",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 2}),
    },
)["QueueUrl"]
assert sqs.list_queue_tags(QueueUrl=dead)["Tags"] == {"team": "shop"}
assert sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [queue]
assert set(sqs.list_queues(QueueNamePrefix="old")["QueueUrls"]) == {queue, dead}

attributes = {
    "text": {"DataType": "String", "StringValue": "h\u00e9 & <b>"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
}
body = "line\r\n<&> \U0001f600"
# This boto3 compares the checksums of what it sends.
sent = sqs.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes)
batch = sqs.send_message_batch(
    QueueUrl=queue,
    Entries=[{"Id": "a", "MessageBody": "a"}, {"Id": "b", "MessageBody": "b", "DelaySeconds": 901}],
)
assert [entry["Id"] for entry in batch["Successful"]] == ["a"]
assert [(entry["Id"], entry["SenderFault"]) for entry in batch["Failed"]] == [("b", True)]
[message] = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"], AttributeNames=["All"])[
    "Messages"
]
assert (message["MessageId"], message["Body"]) == (sent["MessageId"], body)
assert message["MessageAttributes"] == attributes
assert message["Attributes"]["ApproximateReceiveCount"] == "1"
handles = [{"Id": "1", "ReceiptHandle": message["ReceiptHandle"]}, {"Id": "2", "ReceiptHandle": "none"}]
deleted = sqs.delete_message_batch(QueueUrl=queue, Entries=handles)
assert [entry["Code"] for entry in deleted["Failed"]] == ["ReceiptHandleIsInvalid"]

missing = None
try:
    sqs.get_queue_url(QueueName="none")
except sqs.exceptions.QueueDoesNotExist as error:
    missing = error.response["ResponseMetadata"]["HTTPStatusCode"]
assert missing == 400

topic = sns.create_topic(Name="old")["TopicArn"]
policy = {
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": dead_arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
    ]
}
sqs.set_queue_attributes(QueueUrl=dead, Attributes={"Policy": json.dumps(policy)})
sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=dead_arn, Attributes={"RawMessageDelivery": "true"})
sns.publish(TopicArn=topic, Message="published", MessageAttributes=attributes)
[message] = sqs.receive_message(QueueUrl=dead, MessageAttributeNames=["All"])["Messages"]
assert (message["Body"], message["MessageAttributes"]) == ("published", attributes)
