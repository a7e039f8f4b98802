"""Commands and queries, each with one handler."""

from melange.cqrs.bus import CommandBus, QueryBus, Resolve
from melange.cqrs.commands_and_queries import Command, Query
from melange.cqrs.handler_middleware import HandlerMiddleware

__all__ = ["Command", "CommandBus", "HandlerMiddleware", "Query", "QueryBus", "Resolve"]
