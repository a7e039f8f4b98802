"""What the service does when an order is placed."""

from __future__ import annotations

from django.db import transaction

from melange import ExchangeMessageConsumer, Reject
from melange.django.outbox import Outbox
from three_services.payments.events import OrderPlaced, PaymentTaken
from three_services.payments.models import Payment


@transaction.atomic
def take_payment(event: OrderPlaced) -> None:
    if event.total <= 0:
        raise Reject("there is nothing to pay")
    # The message may come twice: the second time there is a payment already.
    _, is_new = Payment.objects.get_or_create(order_id=event.order_id, defaults={"amount": event.total})
    if is_new:
        Outbox().publish("payments", PaymentTaken(event.order_id), key=event.order_id)


def make_consumer() -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer("payments", "orders")
    consumer.listener(OrderPlaced)(take_payment)
    return consumer
