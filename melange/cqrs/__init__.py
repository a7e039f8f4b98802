"""Commands and queries: intent, brought to its one handler."""

from melange.cqrs.bus import CommandBus, Middleware, QueryBus, Resolve
from melange.cqrs.messages import Command, Query

__all__ = ["Command", "CommandBus", "Middleware", "Query", "QueryBus", "Resolve"]
