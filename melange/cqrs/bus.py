"""The buses that bring commands and queries to their handlers."""

# MERGED DOCS: The handlers of a bus: exactly one for each class of command or query. | Functions around handlers.

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar, cast, overload

from melange.callables import Handler, annotated_types, is_asynchronous, place
from melange.cqrs.messages import Command, CommandResult_co, Query, QueryResult_co
from melange.errors import ConfigurationError, DuplicateHandlerError, HandlerNotFoundError, nearest

HandlerT = TypeVar("HandlerT", bound=object)
Resolve = Callable[[type[Any]], Any]
"""Makes, or finds, an object of a handler class: the whole interface to dependency injection."""


def call_class(handler_class: type[Any]) -> Any:
    """Make a handler that needs nothing."""
    return handler_class()


class Handlers:
    """What command and query buses have in common. Thread-safe, and the same for all threads.

    Args:
        middleware: functions around every handler, the first one outermost; composed when a handler is
            registered, so that a bus without them does nothing for them.
        resolve: makes the object for a handler class, each time anew; by default the class is called.
    """

    _kind: ClassVar[type]
    _send: ClassVar[str]

    def __init__(self, *, middleware: Sequence[Middleware] = (), resolve: Resolve = call_class) -> None:
        self._middleware = tuple(middleware)
        self._resolve = resolve
        self._lock = threading.Lock()
        self._places: dict[type, str] = {}
        # A class is in one of them.
        self._handlers: dict[type, Handler] = {}
        self._async_handlers: dict[type, Handler] = {}

    @overload
    def handler(self, message_type: type[Any], /, *more: type[Any]) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def handler(self, handler: HandlerT, /) -> HandlerT: ...
    def handler(self, *arguments: Any) -> Any:
        """Register the function or class below: ``@bus.handler``, or ``@bus.handler(AddProduct)`` to name the type.

        Raises: as ``register``.
        """
        if len(arguments) == 1 and not self._is_message_type(arguments[0]):
            self.register(arguments[0])
            return arguments[0]

        def register(handler: HandlerT) -> HandlerT:
            self.register(handler, *arguments)
            return handler

        return register

    def register(self, handler: object, *message_types: type[Any]) -> None:
        """Register a handler for the named types, or for those that its parameter is annotated with.

        A handler is a function, an object with a method ``handle``, or a class of such objects, of which
        ``resolve`` makes one for each call. It is for exactly these types, not for their subclasses.

        Raises:
            DuplicateHandlerError: one of the types has a handler; nothing was registered.
            ConfigurationError: it is no handler, or does not say what it handles.
        """
        callee = _callee(handler)
        types = message_types or annotated_types(
            callee,
            f"annotate it with its type, or name the type: register(handler, {self._kind.__name__}Type)",
        )
        for message_type in types:
            if not self._is_message_type(message_type):
                raise ConfigurationError(
                    f"{place(callee)} is for {message_type!r}, which does not inherit from {self._kind.__name__}"
                )
        call = composed(
            self._resolving(handler, callee) if isinstance(handler, type) else callee, self._middleware
        )
        with self._lock:
            self._add(types, call, place(callee))

    def _add(self, types: Sequence[type], call: Handler, where: str) -> None:
        for message_type in types:
            if message_type in self._places:
                raise DuplicateHandlerError(
                    f"{message_type.__qualname__} has two handlers: {self._places[message_type]} and {where}"
                )
        handlers = self._async_handlers if is_asynchronous(call) else self._handlers
        for message_type in types:
            self._places[message_type] = where
            handlers[message_type] = call

    def _resolving(self, handler_class: type[Any], callee: Handler) -> Handler:
        resolve = self._resolve
        if is_asynchronous(callee):

            async def handle_async(message: Any) -> Any:
                return await resolve(handler_class).handle(message)

            return handle_async

        def handle(message: Any) -> Any:
            return resolve(handler_class).handle(message)

        return handle

    def _is_message_type(self, candidate: object) -> bool:
        return isinstance(candidate, type) and issubclass(candidate, self._kind)

    def _refuse(self, message: object) -> NoReturn:
        message_type = type(message)
        if message_type in self._async_handlers:
            raise ConfigurationError(
                f"the handler of {message_type.__qualname__} is asynchronous: "
                f"`await bus.{self._send}_async(...)`. It was not called"
            ) from None
        if not isinstance(message, self._kind):
            raise ConfigurationError(
                f"{message!r} is no {self._kind.__name__}: give an object of a class that inherits from it"
            )
        known = [known_type.__qualname__ for known_type in self._places]
        raise HandlerNotFoundError(
            f"{message_type.__qualname__} has no handler{nearest(message_type.__qualname__, known)}: register one with "
            f"@bus.handler, and import its module before the first {self._send}()"
        ) from None


def _callee(handler: Any) -> Handler:
    """Return what will be called, with the command or query as its first parameter."""
    if isinstance(handler, type):
        method = inspect.getattr_static(handler, "handle", None)
        if callable(method):
            # Bound, though to nothing that is ever used, so that `self` is no parameter.
            return cast(Handler, method.__get__(handler, handler))
    else:
        method = getattr(handler, "handle", handler)
        if callable(method):
            return cast(Handler, method)
    raise ConfigurationError(
        f"{handler!r} is no handler: give a function, or a class or object with a method `handle`"
    )


Middleware = Callable[[Any, Callable[[Any], Any]], Any]
"""Takes a command or query and the rest of the way to its handler, which it may call, or not, or twice."""


def composed(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """Return the handler inside of all middleware, the first one outermost.

    It is asynchronous if one of them is.

    Raises:
        ConfigurationError: a plain function stands around something asynchronous, so that it would see a
            coroutine where it expects a result.
    """
    for around in reversed(middleware):
        if is_asynchronous(around):
            handler = _around_async(around, handler)
        elif is_asynchronous(handler):
            raise ConfigurationError(
                f"the middleware {place(around)} is a plain function and {place(handler)} inside of it is asynchronous: "
                "write the middleware with `async def`, and `await` what is inside"
            )
        else:
            handler = _around(around, handler)
    return handler


def _around(around: Middleware, inside: Handler) -> Handler:
    @functools.wraps(inside)
    def handle(message: Any) -> Any:
        return around(message, inside)

    return handle


def _around_async(around: Middleware, inside: Handler) -> Handler:
    awaitable = inside if is_asynchronous(inside) else _awaitable(inside)

    @functools.wraps(inside)
    async def handle(message: Any) -> Any:
        return await around(message, awaitable)

    return handle


def _awaitable(handler: Handler) -> Callable[[Any], Awaitable[Any]]:
    @functools.wraps(handler)
    async def handle(message: Any) -> Any:
        return handler(message)

    return handle


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
