"""Command and query buses: exactly one handler for each class of command or query, with middleware around it."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, cast, overload

from melange.callables import (
    Handler,
    annotated_types,
    check_takes_one,
    classes_of,
    hides_a_coroutine_function,
    is_asynchronous,
    is_awaitable,
    is_type_form,
    place,
    refuse_awaitable,
)
from melange.errors import ConfigurationError, DuplicateHandlerError, HandlerNotFoundError, nearest

if TYPE_CHECKING:
    # Type checkers have this module built in; at run time the defaults do nothing.
    from typing_extensions import TypeVar as TypeVarWithDefault

    CommandResult_co = TypeVarWithDefault("CommandResult_co", default=None, covariant=True)
    QueryResult_co = TypeVarWithDefault("QueryResult_co", default=Any, covariant=True)
else:
    CommandResult_co = TypeVar("CommandResult_co", covariant=True)
    QueryResult_co = TypeVar("QueryResult_co", covariant=True)

HandlerT = TypeVar("HandlerT", bound=object)
Resolve = Callable[[type[Any]], Any]
"""Returns an object of a handler class: the whole interface to dependency injection."""

HandlerMiddleware = Callable[[Any, Callable[[Any], Any]], Any]
"""Takes a command or query and a function that calls the rest. It may call that once, twice or not at all."""

_MOST_PLAIN_TYPES = 1_000  # for programs that create classes at run time


class Command(Generic[CommandResult_co]):
    """Asks for a change. ``Command[int]`` has a handler that returns an int, ``Command`` one that returns None.

    For example:

        @dataclass(frozen=True)
        class AddProduct(Command[int]):
            name: str
    """

    __slots__ = ()


class Query(Generic[QueryResult_co]):
    """Asks for information, without a change. ``Query[list[str]]`` has a handler that returns a list of texts."""

    __slots__ = ()


def call_class(handler_class: type[Any]) -> Any:
    """Create a handler without dependencies."""
    return handler_class()


class Handlers:
    """The common part of command and query buses. Thread-safe, and the same for all threads.

    Args:
        middleware: functions around every handler, the first one outermost; composed when a handler is
            registered, so that a bus without middleware has no cost for it.
        resolve: returns the object for a handler class, for each call; by default it calls the class.
    """

    _kind: ClassVar[type]
    _send: ClassVar[str]

    def __init__(
        self, *, middleware: Sequence[HandlerMiddleware] = (), resolve: Resolve = call_class
    ) -> None:
        self._middleware = tuple(middleware)
        self._resolve = resolve
        self._lock = threading.Lock()
        self._places: dict[type, str] = {}
        # Of results, so that each class is checked once for `await`.
        self._plain_types: set[type] = set()
        # A class is in one of them.
        self._handlers: dict[type, Handler] = {}
        self._async_handlers: dict[type, Handler] = {}

    @overload
    def handler(self, message_type: type[Any], /, *more: type[Any]) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def handler(self, handler: HandlerT, /) -> HandlerT: ...
    def handler(self, *arguments: Any) -> Any:
        """Register the decorated function or class: ``@bus.handler``, or ``@bus.handler(AddProduct)`` to name the type.

        Raises: as ``register``.
        """
        if len(arguments) == 1 and not self._names_a_type(arguments[0]):
            self.register(arguments[0])
            return arguments[0]

        def register(handler: HandlerT) -> HandlerT:
            self.register(handler, *arguments)
            return handler

        return register

    def register(self, handler: object, *message_types: type[Any]) -> None:
        """Register a handler for the named types, or for those in the annotation of its parameter.

        A handler is a function, an object with a method ``handle``, or a class of such objects, of which
        ``resolve`` makes one for each call. It is for exactly these types, not for their subclasses.

        Raises:
            DuplicateHandlerError: one of the types has a handler; nothing was registered.
            ConfigurationError: it is not a handler, does not take one argument, or does not name its types.
        """
        callee = _callee(handler)
        check_takes_one(callee)
        advice = f"annotate it with its type, or name the type: register(handler, {self._kind.__name__}Type)"
        named = (_classes(message_type, f"register of {place(callee)}") for message_type in message_types)
        types = tuple(one for classes in named for one in classes) or annotated_types(callee, advice)
        for message_type in types:
            if not self._is_message_type(message_type):
                raise ConfigurationError(
                    f"{place(callee)} is for {message_type!r}, which does not inherit from {self._kind.__name__}"
                )
        call = _composed(
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

    def _names_a_type(self, candidate: object) -> bool:
        # Handlers may be classes too.
        return self._is_message_type(candidate) or (
            is_type_form(candidate) and not isinstance(candidate, type)
        )

    def _is_message_type(self, candidate: object) -> bool:
        return isinstance(candidate, type) and issubclass(candidate, self._kind)

    def _check_result(self, result: object, handler: Handler) -> None:
        refuse_awaitable(handler, result, f"`await bus.{self._send}_async(...)`")
        if len(self._plain_types) < _MOST_PLAIN_TYPES:
            self._plain_types.add(type(result))

    def _refuse(self, message: object) -> NoReturn:
        message_type = type(message)
        if message_type in self._async_handlers:
            raise ConfigurationError(
                f"the handler of {message_type.__qualname__} is asynchronous: "
                f"`await bus.{self._send}_async(...)`. It was not called"
            ) from None
        if not isinstance(message, self._kind):
            raise ConfigurationError(
                f"{message!r} is not a {self._kind.__name__}: give an object of a class that inherits from it"
            )
        known = [known_type.__qualname__ for known_type in self._places]
        raise HandlerNotFoundError(
            f"{message_type.__qualname__} has no handler{nearest(message_type.__qualname__, known)}: register one with "
            f"@bus.handler, and import its module before the first {self._send}()"
        ) from None


def _classes(message_type: Any, origin: str) -> tuple[Any, ...]:
    # Arguments that are, or should be, classes are checked below.
    return (message_type,) if isinstance(message_type, (type, str)) else classes_of(message_type, origin)


def _callee(handler: Any) -> Handler:
    """Return the callable, with the command or query as its first parameter."""
    method = inspect.getattr_static(handler, "handle", None)
    if isinstance(handler, type):
        if callable(method):
            # Bound, to an unused object, so that `self` is not a parameter.
            is_bindable = hasattr(type(method), "__get__")
            return cast(Handler, method.__get__(handler, handler) if is_bindable else method)
    else:
        # Mocks have every method.
        has_method = method is not None or not callable(handler)
        callee = getattr(handler, "handle", None) if has_method else handler
        if callable(callee):
            return cast(Handler, callee)
    raise ConfigurationError(
        f"{handler!r} is not a handler: give a function, or a class or object with a method `handle`"
    )


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
        result: CommandResult_co = await _awaited(handle(command))
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
        result: QueryResult_co = await _awaited(handle(query))
        return result


def _composed(handler: Handler, middleware: Sequence[HandlerMiddleware]) -> Handler:
    """Return the handler inside of all middleware, the first one outermost.

    It is asynchronous if one of them is.

    Raises:
        ConfigurationError: a plain function is around something asynchronous, so it would get a coroutine
            and not a result.
    """
    for around in reversed(middleware):
        if hides_a_coroutine_function(around):
            handler = _around_async(around, handler)
        elif is_asynchronous(handler):
            raise ConfigurationError(
                f"the middleware {place(around)} is a plain function and {place(handler)} inside of it is asynchronous: "
                "write the middleware with `async def`, and `await` what is inside"
            )
        else:
            handler = _around(around, handler)
    return handler


def _around(around: HandlerMiddleware, handler: Handler) -> Handler:
    advice = f"the middleware {place(around)} is a plain function, so write it with `async def`, and `await` what is inside"

    @functools.wraps(handler)
    def call_inside(message: Any) -> Any:
        result = handler(message)
        if result is not None:
            refuse_awaitable(handler, result, advice)
        return result

    @functools.wraps(handler)
    def handle(message: Any) -> Any:
        return around(message, call_inside)

    return handle


def _around_async(around: HandlerMiddleware, handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def call_inside(message: Any) -> Any:
        return await _awaited(handler(message))

    @functools.wraps(handler)
    async def handle(message: Any) -> Any:
        return await _awaited(around(message, call_inside))

    return handle


async def _awaited(result: Any) -> Any:
    """Return the result of a handler of either kind."""
    return await result if is_awaitable(result) else result
