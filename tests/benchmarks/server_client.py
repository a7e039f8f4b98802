"""A client of ``benchmarks.server``: ``python -m benchmarks.server_client URL NUMBER CALLS``."""

from __future__ import annotations

import sys
import time

import boto3

BODY = '{"order": 12345, "lines": [{"sku": "umbrella", "count": 2}], "note": "' + "x" * 400 + '"}'


def main(url: str, number: str, calls: int) -> None:
    sqs = boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    queue = sqs.create_queue(QueueName=f"client-{number}")["QueueUrl"]
    entries = [{"Id": f"{index}", "MessageBody": BODY} for index in range(10)]
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    for _ in range(calls):
        sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        left = 10
        while left:
            messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)[
                "Messages"
            ]
            handles = [
                {"Id": f"{index}", "ReceiptHandle": one["ReceiptHandle"]}
                for index, one in enumerate(messages)
            ]
            sqs.delete_message_batch(QueueUrl=queue, Entries=handles)
            left -= len(messages)
    print(time.process_time() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
