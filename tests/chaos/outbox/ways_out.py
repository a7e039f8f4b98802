"""How a writer's events get out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sqlalchemy.orm import Session

from chaos.journal import Journal
from chaos.outbox.settings import OutboxSettings
from melange.outbox import Outbox


class WayOut(ABC):
    """Gets the events of one transaction after the other out."""

    def __init__(self, settings: OutboxSettings, journal: Journal) -> None:
        self._topic = settings.topic

    @abstractmethod
    def publish(self, session: Session, event: dict[str, Any], key: str) -> str:
        """Publish an event in a transaction; return its message id."""

    def committed(self) -> None:
        """Take note that the transaction was committed."""
        return

    def forget(self) -> None:
        """Take note that the transaction was rolled back."""
        return


class ThroughOutbox(WayOut):
    """As it should be."""

    def publish(self, session: Session, event: dict[str, Any], key: str) -> str:
        return Outbox(session).publish(self._topic, event, key=key)
