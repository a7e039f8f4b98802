"""Commands and queries, each with one handler."""

from melange.cqrs.bus import CommandBus, QueryBus, Resolve
from melange.cqrs.messages import Command, Query
from melange.cqrs.middleware import Middleware

__all__ = ["Command", "CommandBus", "Middleware", "Query", "QueryBus", "Resolve"]
