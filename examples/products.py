"""Publish product events to a topic and react to them from a queue: melange's main job.

python examples/products.py            # in memory, nothing else needed
python examples/products.py aws        # Amazon SNS+SQS, or a local server named by AWS_ENDPOINT_URL
"""

import sys

from melange import (
    DriverManager,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
    Reject,
)
from melange.operations import DeadLetters

driver_name = sys.argv[1] if len(sys.argv) > 1 else "memory"
DriverManager.instance().use_driver(driver_name=driver_name)


class StockListener(ExchangeListener):
    """Adds products to the stock. Fails once for umbrellas, and always for ghosts."""

    def process(self, event, receive_count):
        if event["name"] == "Ghosts":
            raise Reject("there are no ghosts")
        if event["name"] == "Umbrellas" and receive_count == 1:
            raise ConnectionError("the stock service is unavailable")
        print(f"  stock:  {event['name']} added (attempt {receive_count})")

    def listens_to(self):
        return ["ProductAdded"]


class AuditListener(ExchangeListener):
    """Prints every event once, even if other listeners fail."""

    def process(self, event, event_type_name, message_id):
        print(f"  audit:  {event_type_name} {event['name']}, message {message_id[:8]}")


def main() -> None:
    # Created before anything is published, so that the queue gets every event.
    consumer = ExchangeMessageConsumer("stock", "products", queue=QueueOptions(wait_seconds=2))
    consumer.subscribe(StockListener())
    consumer.subscribe(AuditListener())

    publisher = ExchangeMessagePublisher("products")
    for number, name in enumerate(["Coolers", "Umbrellas", "Ghosts"]):
        publisher.publish({"event_type_name": "ProductAdded", "product_id": number, "name": name})
    print(f"published 3 events to topic 'products' on driver {driver_name!r}")

    while settled := consumer.consume_event():
        print(f"settled {settled} deliveries of queue 'stock'")
    print("nothing more came within 2 seconds")

    for letter in DeadLetters("stock").browse():
        name = letter.data["name"]
        print(f"dead letter in 'stock-dlq': {name}, because {letter.listener_name} said: {letter.reason}")


if __name__ == "__main__":
    main()
