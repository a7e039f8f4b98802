"""What the three web applications have in common: a table, a domain event, and a mail that follows from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from melange import DomainEvent, DomainEventBus
from melange.domain import Subscribers


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    order_id: Mapped[str] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class OrderPlaced(DomainEvent):
    order_id: str


mailing = Subscribers()


@mailing.on(OrderPlaced)
@DomainEventBus.instance().after_commit
def send_mail(event: OrderPlaced) -> None:
    with Path(os.environ["MAILS"]).open("a") as mails:
        mails.write(f"{event.order_id}\n")
