"""AWS's extended client for Python as a program: it replaces boto3's classes in its whole process.

``python extended_client.py send|send-old|receive QUEUE_NAME BUCKET``: a body is read from standard input, or printed.
"""

import sys

import boto3
import sqs_extended_client  # noqa: F401 - for what its import does


def main(action: str, queue_name: str, bucket: str) -> None:
    sqs = boto3.client("sqs")
    sqs.large_payload_support = bucket
    sqs.use_legacy_attribute = action == "send-old"
    url = sqs.get_queue_url(QueueName=queue_name)["QueueUrl"]
    if action == "receive":
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10)["Messages"]
        sys.stdout.write(message["Body"])
    else:
        sqs.send_message(QueueUrl=url, MessageBody=sys.stdin.read())


if __name__ == "__main__":
    main(*sys.argv[1:])
