"""What the service does when a payment was taken."""

from __future__ import annotations

from dataclasses import dataclass

from melange import DriverManager, EventMessage, ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.aws_lambda import LambdaHandler, handler


@dataclass(frozen=True)
class PaymentTaken(EventMessage):
    order_id: str


@dataclass(frozen=True)
class OrderShipped(EventMessage):
    order_id: str
    parcel: str


def make_handler() -> LambdaHandler:
    DriverManager.instance().use_driver(driver_name="aws")
    consumer = ExchangeMessageConsumer("shipping", "payments")
    publisher = ExchangeMessagePublisher("shipping")

    @consumer.listener(PaymentTaken)
    def ship(event: PaymentTaken, message_id: str) -> None:
        # A second run publishes with the same id, so that listeners recognise the copy.
        publisher.publish(
            OrderShipped(event.order_id, f"parcel for {event.order_id}"), message_id=f"shipped-{message_id}"
        )

    return handler(consumer)
