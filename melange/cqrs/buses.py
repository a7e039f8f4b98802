"""The buses that bring commands and queries to their handlers."""

from __future__ import annotations

from melange.cqrs.handling import Handlers
from melange.cqrs.messages import Command, CommandResult_co, Query, QueryResult_co


class CommandBus(Handlers):
    """Brings each command to the one handler of its class, in the thread of the caller.

    Make one for the program, where all its handlers are registered.
    """

    _kind = Command
    _send = "send"

    def send(self, command: Command[CommandResult_co]) -> CommandResult_co:
        """Return what the handler of the command returns; what it raises passes.

        Raises:
            HandlerNotFoundError: nobody handles this class.
            ConfigurationError: its handler is asynchronous; it was not called. Or it is no command.
        """
        try:
            handle = self._handlers[type(command)]
        except KeyError:
            self._refuse(command)
        result: CommandResult_co = handle(command)
        return result

    async def send_async(self, command: Command[CommandResult_co]) -> CommandResult_co:
        """Do as ``send`` does, and await the handler if it is asynchronous."""
        handle = self._async_handlers.get(type(command))
        if handle is None:
            return self.send(command)
        result: CommandResult_co = await handle(command)
        return result


class QueryBus(Handlers):
    """Brings each query to the one handler of its class, in the thread of the caller.

    Make one for the program, where all its handlers are registered.
    """

    _kind = Query
    _send = "ask"

    def ask(self, query: Query[QueryResult_co]) -> QueryResult_co:
        """Return what the handler of the query returns; what it raises passes.

        Raises:
            HandlerNotFoundError: nobody handles this class.
            ConfigurationError: its handler is asynchronous; it was not called. Or it is no query.
        """
        try:
            handle = self._handlers[type(query)]
        except KeyError:
            self._refuse(query)
        result: QueryResult_co = handle(query)
        return result

    async def ask_async(self, query: Query[QueryResult_co]) -> QueryResult_co:
        """Do as ``ask`` does, and await the handler if it is asynchronous."""
        handle = self._async_handlers.get(type(query))
        if handle is None:
            return self.ask(query)
        result: QueryResult_co = await handle(query)
        return result
