"""Outbox and inbox: events that are published, and effects that happen, if and only if a transaction commits.

Needs SQLAlchemy: ``pip install '.[outbox]'`` in a checkout of melange.
"""

try:
    import filelock  # noqa: F401
    import sqlalchemy  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"melange.outbox needs {error.name}: pip install '.[outbox]' in a checkout of melange",
        name=error.name,
    ) from error

from melange.outbox.administration import FailedMessage, OutboxAdministration, ScheduledMessage, TopicStatus
from melange.outbox.inbox import Inbox
from melange.outbox.integration_events import IntegrationEvents
from melange.outbox.relay import OutboxRelay, RelayHealth
from melange.outbox.sqlalchemy_outbox import Outbox
from melange.outbox.tables import (
    InboxAttempts,
    InboxMark,
    OutboxMessage,
    OutboxScheduledMessage,
    create_statements,
    metadata,
)

__all__ = [
    "FailedMessage",
    "Inbox",
    "InboxAttempts",
    "InboxMark",
    "IntegrationEvents",
    "Outbox",
    "OutboxAdministration",
    "OutboxMessage",
    "OutboxRelay",
    "OutboxScheduledMessage",
    "RelayHealth",
    "ScheduledMessage",
    "TopicStatus",
    "create_statements",
    "metadata",
]
