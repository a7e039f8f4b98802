"""One program on SNS and SQS, in a process of its own: ``python contestant.py NAME URL QUEUE``.

It imports nothing of the benchmarks, so that it runs in any environment. Commands come by standard input: ``publish N``
answers with the CPU time and the wall time of the calls, ``consume`` goes on for ever in the background, and ``used``
answers with the CPU time of all threads so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

REGION, KEY = "us-east-1", "test"
ARN = f"arn:aws:sns:{REGION}:000000000000:"

EVENT: dict[str, Any] = {
    "event_type_name": "OrderPlaced",
    "order_id": "7b2f6c1e-53a1-4b0e-9c0f-2f7f6f8a6d11",
    "customer_id": 48213,
    "placed_at": "2026-11-23T10:15:00+00:00",
    "currency": "EUR",
    "total": "149.70",
    "lines": [
        {"product_id": 1, "name": "Coolers", "quantity": 2, "price": "12.50"},
        {"product_id": 17, "name": "Garden table", "quantity": 1, "price": "124.70"},
    ],
}

Publish = Callable[[int], object]
Consume = Callable[[], object]


def boto3_loop(url: str, queue: str) -> tuple[Publish, Consume]:
    """Return a loop with boto3 alone, in batches of ten; each message has an id and a type beside it."""
    import uuid

    import boto3

    session = boto3.Session(KEY, KEY, region_name=REGION)
    sns = session.client("sns", endpoint_url=url)

    def publish(count: int) -> None:
        for _ in range(0, count, 10):
            entries = [
                {
                    "Id": str(number),
                    "Message": json.dumps(EVENT),
                    "MessageAttributes": {
                        "id": {"DataType": "String", "StringValue": str(uuid.uuid4())},
                        "type": {"DataType": "String", "StringValue": EVENT["event_type_name"]},
                    },
                }
                for number in range(10)
            ]
            sns.publish_batch(TopicArn=ARN + "orders", PublishBatchRequestEntries=entries)

    def consume() -> None:
        sqs = session.client("sqs", endpoint_url=url)
        address = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        while True:
            answer = sqs.receive_message(
                QueueUrl=address, MaxNumberOfMessages=10, WaitTimeSeconds=20, MessageAttributeNames=["All"]
            )
            messages = answer.get("Messages", ())
            for message in messages:
                json.loads(message["Body"])
            if messages:
                entries = [
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ]
                sqs.delete_message_batch(QueueUrl=address, Entries=entries)

    return publish, consume


def melange(url: str, queue: str, options: Sequence[str]) -> tuple[Publish, Consume]:
    """Return melange with its defaults; ``options`` say how it consumes and on which transport."""
    import boto3

    from melange import ExchangeMessagePublisher
    from melange.drivers.aws import AwsDriver

    named: dict[str, Any] = {"transport": "botocore"} if "botocore" in options else {}
    driver = AwsDriver(session=boto3.Session(KEY, KEY, region_name=REGION), endpoint_url=url, **named)
    publisher = ExchangeMessagePublisher("orders", driver)

    def consume() -> None:
        from melange import ExchangeMessageConsumer, Worker

        consumer = ExchangeMessageConsumer(queue, "orders", driver=driver)
        seconds = 0.02 if "20ms" in options else 0.0

        def listen(event: Any) -> None:
            if seconds:
                time.sleep(seconds)

        async def listen_asynchronously(event: Any) -> None:
            if seconds:
                await asyncio.sleep(seconds)

        listener = listen_asynchronously if "asynchronous" in options else listen
        consumer.listener("OrderPlaced", name="listen")(listener)
        concurrency = next((int(option) for option in options if option.isdecimal()), 0)
        if concurrency:
            Worker(consumer, concurrency=concurrency).run()
        while True:
            consumer.consume_event()

    return lambda count: publisher.publish_batch([EVENT] * count), consume


def fanferro(url: str, queue: str, options: Sequence[str]) -> tuple[Publish, Consume]:
    """Return fanferro with its defaults; its loop runs in the thread that needs it."""
    import fanferro

    concurrency = next((int(option) for option in options if option.isdecimal()), 20)
    seconds = 0.02 if "20ms" in options else 0.0

    def client() -> Any:
        return fanferro.Client(
            endpoint_url=url,
            region=REGION,
            credentials=fanferro.Credentials(KEY, KEY),
            account_id="000000000000",
        )

    publishing, loop = client(), asyncio.new_event_loop()
    topic = publishing.topic("orders")

    def publish(count: int) -> None:
        loop.run_until_complete(topic.publish_batch([EVENT] * count, type="OrderPlaced"))

    def consume() -> None:
        consuming = client()

        async def listen(event: dict) -> None:  # type: ignore[type-arg]
            if seconds:
                await asyncio.sleep(seconds)

        consumer = consuming.consumer(consuming.queue(queue), listen, concurrency=concurrency)

        async def run() -> None:
            async with consuming:
                await consumer.run()

        asyncio.run(run())

    return publish, consume


def kombu(url: str, queue: str) -> tuple[Publish, Consume]:
    """Return kombu's SQS transport, which has no SNS: it publishes to the queue, message by message."""
    from kombu import Connection, Queue

    connection = Connection(
        f"sqs://{KEY}:{KEY}@",
        transport_options={
            "region": REGION,
            "wait_time_seconds": 20,
            "predefined_queues": {
                queue: {"url": f"{url}/000000000000/{queue}", "access_key_id": KEY, "secret_access_key": KEY}
            },
        },
    )

    def consume() -> None:
        with connection.Consumer([Queue(queue)], callbacks=[lambda body, message: message.ack()]):
            while True:
                connection.drain_events()

    producer = connection.Producer()

    def publish(count: int) -> None:
        for _ in range(count):
            producer.publish(EVENT, routing_key=queue)

    return publish, consume


def coroutines(options: Sequence[str]) -> tuple[Publish, Consume]:
    """Return as many coroutines as may run at once that only wait: what asyncio itself takes on this machine."""
    at_a_time = next(int(option) for option in options if option.isdecimal())

    async def wait(count: int) -> None:
        async def wait_in_turn() -> None:
            for _ in range(count // at_a_time):
                await asyncio.sleep(0.02)

        await asyncio.gather(*[wait_in_turn() for _ in range(at_a_time)])

    return lambda count: asyncio.run(wait(count)), lambda: None


def build(name: str, url: str, queue: str) -> tuple[Publish, Consume]:
    """Return a contestant by its name, such as ``melange 32 20ms``."""
    library, *options = name.split()
    if library == "boto3":
        return boto3_loop(url, queue)
    if library == "coroutines":
        return coroutines(options)
    if library == "kombu":
        return kombu(url, queue)
    return {"melange": melange, "fanferro": fanferro}[library](url, queue, options)


def main(name: str, url: str, queue: str) -> None:
    """Follow the commands on standard input."""
    publish, consume = build(name, url, queue)
    print("ready", flush=True)

    def follow() -> None:
        for line in sys.stdin:
            command, _, count = line.strip().partition(" ")
            if command == "publish":
                wall, cpu = time.perf_counter(), time.process_time()
                publish(int(count))
                print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)
            elif command == "consume":
                may_consume.set()
            else:
                print(time.process_time(), flush=True)

    may_consume = threading.Event()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    may_consume.wait()
    consume()  # in the main thread, as signal handlers want it


if __name__ == "__main__":
    main(*sys.argv[1:])
