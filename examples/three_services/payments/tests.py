"""Tests with Django's own runner: ``python -m three_services.payments.manage test three_services.payments``."""

from __future__ import annotations

from decimal import Decimal

from django.test import TransactionTestCase

from melange import ExchangeMessagePublisher
from melange.testing import Harness
from three_services.payments.consumers import make_consumer
from three_services.payments.events import OrderPlaced, PaymentTaken
from three_services.payments.models import Payment


class PaymentTests(TransactionTestCase):
    def setUp(self) -> None:
        self.harness: Harness = self.enterContext(Harness())
        make_consumer()

    def place(self, total: str) -> None:
        ExchangeMessagePublisher("orders").publish(OrderPlaced("order-1", Decimal(total)))
        self.harness.settle()

    def test_an_order_is_paid(self) -> None:
        self.place("9.90")

        assert self.harness.published(PaymentTaken) == [PaymentTaken("order-1")]
        assert Payment.objects.get().amount == Decimal("9.90")

    def test_an_order_is_paid_once(self) -> None:
        self.place("9.90")
        self.place("9.90")

        assert len(self.harness.published(PaymentTaken)) == 1

    def test_an_order_for_nothing_is_rejected(self) -> None:
        self.place("0")

        assert len(self.harness.dead_lettered(OrderPlaced)) == 1
        assert not Payment.objects.exists()
