"""Commands and queries: intent, brought to its one handler."""

from melange.cqrs.buses import CommandBus, QueryBus
from melange.cqrs.handling import Resolve
from melange.cqrs.messages import Command, Query
from melange.cqrs.middleware import Middleware

__all__ = ["Command", "CommandBus", "Middleware", "Query", "QueryBus", "Resolve"]
