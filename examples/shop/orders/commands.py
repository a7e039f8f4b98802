"""The commands of the order service and their handlers."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from melange.cqrs import Command, CommandBus
from shop.orders import repository
from shop.orders.model import Account, Order, Product
from shop.orders.unit_of_work import transactional

commands = CommandBus(middleware=[transactional])


@dataclass(frozen=True)
class AddProduct(Command):
    sku: str
    name: str
    price: int


@dataclass(frozen=True)
class OpenAccount(Command):
    customer: str
    credit: int


@dataclass(frozen=True)
class PlaceOrder(Command[str]):
    customer: str
    sku: str
    quantity: int


@commands.handler
def add_product(command: AddProduct) -> None:
    repository.add(Product.add(command.sku, command.name, command.price))


@commands.handler
def open_account(command: OpenAccount) -> None:
    repository.add(Account(command.customer, command.credit))


@commands.handler
def place_order(command: PlaceOrder) -> str:
    """Return the id of the order."""
    product = repository.product(command.sku)
    order = Order.place(str(uuid4()), command.customer, product, command.quantity)
    repository.add(order)
    return order.order_id
