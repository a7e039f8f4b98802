"""The function, invoked as Lambda does."""

from __future__ import annotations

from melange import ExchangeMessagePublisher
from melange.aws_lambda import LocalEventSource
from melange.testing import Harness
from three_services.shipping.function import OrderShipped, PaymentTaken, make_handler


def test_a_paid_order_is_shipped(melange: Harness) -> None:
    function = LocalEventSource(make_handler())

    ExchangeMessagePublisher("payments").publish(PaymentTaken("order-1"))
    deleted = function.poll()

    assert deleted == 1
    assert melange.published(OrderShipped) == [OrderShipped("order-1", "parcel for order-1")]
