"""Commands and queries, each with one handler."""

from melange.cqrs.bus import CommandBus, QueryBus
from melange.cqrs.messages import Command, Query
from melange.cqrs.middleware import Middleware
from melange.cqrs.registry import Resolve

__all__ = ["Command", "CommandBus", "Middleware", "Query", "QueryBus", "Resolve"]
