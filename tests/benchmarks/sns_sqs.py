"""SNS to SQS through the aws driver beside a plain boto3 loop, against the same local server."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
from botocore.config import Config

from benchmarks import events
from benchmarks.measuring import (
    Cost,
    Count,
    Progress,
    Row,
    consume_all,
    cost_per_item,
    cpu_of,
    interleaved,
    wall_of,
)
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore, QueueOptions
from melange.drivers.aws import AwsDriver
from melange.drivers.aws.clients import check_answer, default_config, encode_body_once

MESSAGES = 200
EVENT = events.ORDER

_numbers = itertools.count()

Client = Any


@dataclass(frozen=True, slots=True)
class Loop:
    """A way to publish and consume so many messages."""

    publish: Callable[[int], None]
    consume: Callable[[int], None]

    def measure_publishing(self) -> Cost:
        """Measure publishing; consume afterwards what was published."""
        with cost_per_item(MESSAGES) as cost:
            self.publish(MESSAGES)
        self.consume(MESSAGES)
        return cost

    def measure_consuming(self) -> Cost:
        """Measure consuming from a queue that was filled before."""
        self.publish(MESSAGES)
        with cost_per_item(MESSAGES) as cost:
            self.consume(MESSAGES)
        return cost

    def measure_both(self) -> Cost:
        """Measure publishing, then consuming."""
        with cost_per_item(MESSAGES) as cost:
            self.publish(MESSAGES)
            self.consume(MESSAGES)
        return cost


def rows(endpoint_url: str, repetitions: int, progress: Progress) -> list[Row]:
    """Compare the driver with the loop; CPU time of this process unless the row says otherwise."""
    ours, plain = melange_loop(session(), endpoint_url), plain_loop(endpoint_url)
    plain_with_our_clients = plain_loop(endpoint_url, tuned_clients)
    rival, aim = "plain boto3 loop", "at most 1"
    work = "publish + consume over SNS+SQS"
    both = interleaved(
        work,
        {
            "aws driver": ours.measure_both,
            "plain boto3": plain.measure_both,
            "plain boto3, clients as melange's": plain_with_our_clients.measure_both,
        },
        repetitions,
        progress,
    )
    publishing = interleaved(
        "publish to SNS",
        {"aws driver": ours.measure_publishing, "plain boto3": plain.measure_publishing},
        repetitions,
        progress,
    )
    consuming = interleaved(
        "consume from SQS",
        {"aws driver": ours.measure_consuming, "plain boto3": plain.measure_consuming},
        repetitions,
        progress,
    )
    driver, loop, loop_of_our_clients = both.values()
    publishing_driver, publishing_loop = publishing.values()
    consuming_driver, consuming_loop = consuming.values()
    return [
        Row(work, cpu_of(driver), rival, cpu_of(loop), aim),
        Row(f"{work}, wall time", wall_of(driver), rival, wall_of(loop), aim),
        Row("publish to SNS", cpu_of(publishing_driver), rival, cpu_of(publishing_loop)),
        Row("consume from SQS", cpu_of(consuming_driver), rival, cpu_of(consuming_loop)),
        Row(work, cpu_of(driver), "the same loop with melange's clients", cpu_of(loop_of_our_clients)),
    ]


def rows_of_settings(endpoint_url: str, repetitions: int, progress: Progress) -> list[Row]:
    """Compare the plain loop with itself, each time with one of the settings of melange's clients."""
    ours: Any = default_config()  # its stubs do not know that options become attributes
    variants: dict[str, Callable[[str], tuple[Client, Client]]] = {
        "boto3's defaults": lambda url: clients(url, Config()),
        "no second parameter validation": lambda url: clients(url, Config(parameter_validation=False)),
        "User-Agent made once": lambda url: clients(url, Config(user_agent=ours.user_agent)),
        "`PublishBatch` form written once": lambda url: encoding_once(clients(url, Config())),
        "received JSON taken as it is": lambda url: reading_at_once(clients(url, Config())),
        "all of melange's settings": tuned_clients,
    }
    loops = {name: plain_loop(endpoint_url, make).measure_both for name, make in variants.items()}
    found = interleaved("settings of the clients", loops, repetitions, progress)
    costs = {name: cpu_of(of_loop) for name, of_loop in found.items()}
    rival, theirs = next(iter(costs.items()))
    return [Row(name, cpu, rival, theirs) for name, cpu in costs.items() if name != rival]


def counts(endpoint_url: str) -> list[Count]:
    """Count the API calls of the driver per message, botocore's own retries left out."""
    calls: Counter[str] = Counter()
    counting = session()
    counting.events.register("before-call", lambda model, **_: calls.update([model.name]))
    loop = melange_loop(counting, endpoint_url)
    loop.publish(MESSAGES)  # declares the topic
    published_before, messages = calls.total(), MESSAGES
    loop.publish(messages)
    consumed_before = calls.total()
    loop.consume(2 * messages)
    return [
        Count(
            "API calls per message published in batches",
            (consumed_before - published_before) / messages,
            "at most 0.1",
        ),
        Count(
            "API calls per message consumed from a full standard queue",
            (calls.total() - consumed_before) / (2 * messages),
            "at most 0.25",
        ),
    ]


def melange_loop(of: boto3.Session, endpoint_url: str) -> Loop:
    """Return the loop that an application writes with melange: one listener, deduplication as by default."""
    name = f"benchmark-{next(_numbers)}"
    driver = AwsDriver(session=of, endpoint_url=endpoint_url)
    consumer = ExchangeMessageConsumer(
        name,
        name,
        driver=driver,
        deduplication=MemoryDeduplicationStore(),
        queue=QueueOptions(wait_seconds=1),
    )
    consumer.listener("OrderPlaced", "ProductAdded", name="nothing")(lambda event: None)
    publisher = ExchangeMessagePublisher(name, driver)

    def publish(messages: int) -> None:
        publisher.publish_batch([EVENT] * messages)

    return Loop(publish, partial(consume_all, consumer))


def plain_loop(endpoint_url: str, make_clients: Callable[[str], tuple[Client, Client]] | None = None) -> Loop:
    """Return the loop with boto3 alone: batches of ten, raw delivery, no attributes, no deduplication."""
    sns, sqs = make_clients(endpoint_url) if make_clients else clients(endpoint_url, None)
    name = f"benchmark-{next(_numbers)}"
    topic_arn = sns.create_topic(Name=name)["TopicArn"]
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=answer["Attributes"]["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )

    def publish(messages: int) -> None:
        for _ in range(0, messages, 10):
            entries = [{"Id": str(index), "Message": json.dumps(EVENT)} for index in range(10)]
            sns.publish_batch(TopicArn=topic_arn, PublishBatchRequestEntries=entries)

    def consume(messages: int) -> None:
        consumed = 0
        while consumed < messages:
            answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            received = answer.get("Messages", ())
            if not received:
                continue
            for message in received:
                json.loads(message["Body"])
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(received)
            ]
            sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)
            consumed += len(received)

    return Loop(publish, consume)


def session() -> boto3.Session:
    """Return a session that can reach no account."""
    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


def clients(endpoint_url: str, config: Config | None) -> tuple[Client, Client]:
    """Return clients for SNS and SQS as boto3 makes them."""
    of = session()
    return tuple(of.client(name, endpoint_url=endpoint_url, config=config) for name in ("sns", "sqs"))


def encoding_once(made: tuple[Client, Client]) -> tuple[Client, Client]:
    """Give the SNS client melange's way to write the form of a batch."""
    made[0].meta.events.register("before-call.sns.PublishBatch", encode_body_once)
    return made


def reading_at_once(made: tuple[Client, Client]) -> tuple[Client, Client]:
    """Give the SQS client melange's way to read what it received."""
    made[1].meta.events.register("before-parse.sqs", check_answer)
    return made


def tuned_clients(endpoint_url: str) -> tuple[Client, Client]:
    """Return clients for SNS and SQS with all of melange's settings."""
    return reading_at_once(encoding_once(clients(endpoint_url, default_config())))
