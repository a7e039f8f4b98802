"""fanferro, whose SQS and SNS clients are its own, in Rust. Argument: the server's URL."""

import asyncio
import sys
from dataclasses import dataclass

import fanferro


@fanferro.message_type("order.placed.v1")
@dataclass
class OrderPlaced:
    number: int


async def main(url):
    client = fanferro.Client(
        source="urn:service:shop",
        endpoint_url=url,
        region="us-east-1",
        provisioning=fanferro.Provisioning.ensure(),
    )
    topic = client.topic("ferro")
    queue = client.queue("ferro-billing", dead_letter=fanferro.DeadLetterQueue("ferro-dead"))
    client.subscription(topic, queue)
    consumer = client.consumer(queue, concurrency=5)
    numbers, done = [], asyncio.Event()

    @consumer.route(OrderPlaced)
    async def bill(order: OrderPlaced) -> None:
        numbers.append(order.number)
        if len(numbers) == 25:
            done.set()

    async with client:
        for number in range(25):
            await topic.publish(OrderPlaced(number))
        running = asyncio.create_task(consumer.run())
        await asyncio.wait_for(done.wait(), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert sorted(numbers) == list(range(25))


asyncio.run(main(sys.argv[1]))
