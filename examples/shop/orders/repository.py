"""The domain's objects in the transaction of this thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from sqlalchemy.orm import Session

from shop.orders.model import Account, Order, Product

_session: ContextVar[Session] = ContextVar("shop.orders.session")

ObjectT = TypeVar("ObjectT")


class Unknown(Exception):
    """There is no such object."""


@contextmanager
def using(session: Session) -> Iterator[None]:
    """Let the functions below use this session."""
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)


def add(new: Product | Account | Order) -> None:
    _session.get().add(new)


def product(sku: str) -> Product:
    return _get(Product, sku)


def account(customer: str) -> Account:
    return _get(Account, customer)


def order(order_id: str) -> Order:
    return _get(Order, order_id)


def _get(kind: type[ObjectT], key: str) -> ObjectT:
    # Locked, because the caller changes what it read. SQLite locks by itself.
    found = _session.get().get(kind, key, with_for_update=True)
    if found is None:
        raise Unknown(f"{kind.__name__} {key}")
    return found
