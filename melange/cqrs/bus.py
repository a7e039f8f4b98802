"""The buses of commands and queries."""

from __future__ import annotations

from melange.cqrs.messages import Command, CommandResult_co, Query, QueryResult_co
from melange.cqrs.middleware import awaited
from melange.cqrs.registry import Handlers


class CommandBus(Handlers):
    """Calls the one handler of each command's class, in the thread of the caller.

    Create one for the program, and register all handlers on it.
    """

    _kind = Command
    _send = "send"

    def send(self, command: Command[CommandResult_co]) -> CommandResult_co:
        """Call the handler of the command and return its result. Its exceptions are not caught.

        Raises:
            HandlerNotFoundError: this class has no handler.
            ConfigurationError: its handler is asynchronous, and was not called. Or a handler that looks synchronous
                returned a coroutine or the like, which does not run. Or it is not a command.
        """
        try:
            handle = self._handlers[type(command)]
        except KeyError:
            self._refuse(command)
        result: CommandResult_co = handle(command)
        if result is not None and type(result) not in self._plain_types:
            self._check_result(result, handle)
        return result

    async def send_async(self, command: Command[CommandResult_co]) -> CommandResult_co:
        """Send like ``send``, and await the handler's result if it can be awaited."""
        handle = self._async_handlers.get(type(command)) or self._handlers.get(type(command))
        if handle is None:
            self._refuse(command)
        result: CommandResult_co = await awaited(handle(command))
        return result


class QueryBus(Handlers):
    """Calls the one handler of each query's class, in the thread of the caller.

    Create one for the program, and register all handlers on it.
    """

    _kind = Query
    _send = "ask"

    def ask(self, query: Query[QueryResult_co]) -> QueryResult_co:
        """Call the handler of the query and return its result. Its exceptions are not caught.

        Raises:
            HandlerNotFoundError: this class has no handler.
            ConfigurationError: its handler is asynchronous, and was not called. Or a handler that looks synchronous
                returned a coroutine or the like, which does not run. Or it is not a query.
        """
        try:
            handle = self._handlers[type(query)]
        except KeyError:
            self._refuse(query)
        result: QueryResult_co = handle(query)
        if result is not None and type(result) not in self._plain_types:
            self._check_result(result, handle)
        return result

    async def ask_async(self, query: Query[QueryResult_co]) -> QueryResult_co:
        """Ask like ``ask``, and await the handler's result if it can be awaited."""
        handle = self._async_handlers.get(type(query)) or self._handlers.get(type(query))
        if handle is None:
            self._refuse(query)
        result: QueryResult_co = await awaited(handle(query))
        return result
