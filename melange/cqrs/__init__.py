"""Commands and queries, each with one handler."""

from melange.cqrs.bus import Command, CommandBus, HandlerMiddleware, Query, QueryBus, Resolve

__all__ = ["Command", "CommandBus", "HandlerMiddleware", "Query", "QueryBus", "Resolve"]
