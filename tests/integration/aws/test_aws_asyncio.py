"""Publishing and consuming with asyncio over SNS and SQS, on a local server."""

import asyncio
import uuid

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions
from melange.drivers.aws import AwsDriver


def test_what_is_published_at_once_arrives_once_with_the_ids_of_its_callers(sns_sqs_server):
    name = f"asyncio-{uuid.uuid4().hex[:12]}"
    received = {}

    async def scenario():
        async with AwsDriver(endpoint_url=sns_sqs_server, region_name="us-east-1") as driver:
            consumer = await asyncio.to_thread(
                lambda: ExchangeMessageConsumer(name, name, driver=driver, queue=QueueOptions(wait_seconds=2))
            )

            @consumer.listener("OrderPlaced", name="see")
            async def see(event, message_id):
                assert message_id not in received
                received[message_id] = event["number"]

            publisher = ExchangeMessagePublisher(name, driver)
            message_ids = await asyncio.gather(
                *(
                    publisher.publish_async({"event_type_name": "OrderPlaced", "number": number})
                    for number in range(50)
                )
            )
            while len(received) < 50:
                assert await consumer.consume_event_async() > 0
            return message_ids

    message_ids = asyncio.run(scenario())

    assert [received[message_id] for message_id in message_ids] == list(range(50))
