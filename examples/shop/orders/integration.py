"""The domain events that become events for other services, if and only if the transaction commits."""

from __future__ import annotations

from melange.outbox import IntegrationEvents
from shop import contract
from shop.orders.events import OrderPlaced, ProductAdded

integration = IntegrationEvents()


@integration.to(contract.ORDERS, key=lambda event: event.sku)
def product_added(event: ProductAdded) -> contract.ProductAdded:
    return contract.ProductAdded(event.sku, event.name)


@integration.to(contract.ORDERS, key=lambda event: event.order_id)
def order_placed(event: OrderPlaced) -> contract.OrderPlaced:
    """Return what the warehouse needs to know, without the price."""
    return contract.OrderPlaced(event.order_id, event.sku, event.quantity)
