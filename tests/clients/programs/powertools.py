"""Powertools' batch processing on records as AWS Lambda would hand them over. Argument: the server's URL."""

import sys

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

sqs = boto3.client("sqs", endpoint_url=sys.argv[1], region_name="us-east-1")
queue = sqs.create_queue(QueueName="lambda")["QueueUrl"]
for number in range(4):
    sqs.send_message(QueueUrl=queue, MessageBody=f'{{"number": {number}}}')
messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"])[
    "Messages"
]
arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
records = [
    {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }
    for message in messages
]


def handle(record):
    assert record.attributes.approximate_receive_count == "1"
    assert int(record.attributes.sent_timestamp) > 0
    if record.json_body["number"] == 2:
        raise ValueError("two is refused")


answer = process_partial_response({"Records": records}, handle, BatchProcessor(event_type=EventType.SQS), {})
[failed] = answer["batchItemFailures"]
assert failed["itemIdentifier"] == next(one["messageId"] for one in records if '"number": 2' in one["body"])
