"""One transaction, with everything that takes part in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from melange.outbox import Outbox
from shop.orders import repository
from shop.orders.database import new_session
from shop.orders.integration import integration
from shop.orders.mail import mail
from shop.orders.rules import rules


@contextmanager
def unit_of_work(session: Session) -> Iterator[None]:
    """Let everything in the block take part in the transaction of the session."""
    with repository.using(session), Outbox(session).scope(rules, integration, mail):
        yield


def transactional(command: object, handle: Callable[[Any], Any]) -> Any:
    """Handle a command in its own transaction: the middleware of the command bus."""
    with new_session.begin() as session, unit_of_work(session):
        return handle(command)
