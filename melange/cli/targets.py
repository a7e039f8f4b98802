"""What ``package.module:attribute`` stands for: the worker to run, or something else of the program's."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.worker import Worker
from melange.errors import ConfigurationError, DriverConnectionError, nearest

FORM = "write package.module:attribute, such as shop.consumers:stock"
WANTED = "a Worker, an ExchangeMessageConsumer, a list of consumers, or a function that returns one of these"


def load_worker(target: str, *, concurrency: int | None = None, grace_seconds: float | None = None) -> Worker:
    """Load what ``target`` names and return the worker for it. None takes the worker's own default.

    Raises:
        ConfigurationError: there is no such thing, it can't be run, or a number is out of bounds. Its
            ``__cause__`` is what the target's own code raised, if that was it.
        DriverConnectionError: the target's own code could not reach the broker; worth another try.
    """
    found = load(target)
    options = {
        name: value
        for name, value in (("concurrency", concurrency), ("grace_seconds", grace_seconds))
        if value is not None
    }
    if isinstance(found, Worker):
        if options:
            raise ConfigurationError(
                f"{target} is a Worker and brings its own {' and '.join(options)}: leave the option out, or name "
                "the consumers instead"
            )
        return found
    return Worker(*_consumers(target, found), **options)  # type: ignore[arg-type] # int and float by name


def load(target: str) -> object:
    """Import what ``target`` names and return it; a function is called, and what it returns is returned.

    The target is the operator's own: importing it runs its code. The working directory is looked in first, as
    ``python -m`` does.

    Raises:
        ConfigurationError: there is no such thing. Its ``__cause__`` is what the target's own code raised, if
            that was it.
        DriverConnectionError: the target's own code could not reach the broker; worth another try.
    """
    found = _find(target)
    return _call(target, found) if inspect.isroutine(found) else found


def described(value: object) -> str:
    """Return what kind of thing ``load`` has found, for saying that it is of the wrong one."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _find(target: str) -> object:
    module_name, separator, attribute = target.partition(":")
    is_name = all(part.isidentifier() for part in module_name.split(".")) and not module_name.endswith(".py")
    if not (separator and attribute and is_name):
        raise ConfigurationError(f"{target!r} names no attribute of a module: {FORM}")
    module = _import(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigurationError(
            f"module {module_name} has no attribute {attribute!r}{nearest(attribute, public)}"
        ) from None


def _import(module_name: str) -> object:
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        sys.path.insert(0, working_directory)
    try:
        return importlib.import_module(module_name)
    except DriverConnectionError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _own_failure(f"importing {module_name}", error) from error  # one that the module imports
        raise ConfigurationError(
            f"there is no module {error.name}: looked in {working_directory} and where Python finds packages"
        ) from None
    except (Exception, SystemExit) as error:
        raise _own_failure(f"importing {module_name}", error) from error


def _call(target: str, function: Callable[..., object]) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(f"{target} is called without arguments: {error}") from None
    try:
        return function()
    except DriverConnectionError:
        raise
    except (Exception, SystemExit) as error:
        raise _own_failure(f"calling {target}", error) from error


def _own_failure(doing: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{doing} failed with {type(error).__name__}: {error}")


def _consumers(target: str, found: object) -> list[ExchangeMessageConsumer]:
    consumers = []
    for consumer in found if isinstance(found, (list, tuple)) else [found]:
        if not isinstance(consumer, ExchangeMessageConsumer):
            inside = "is" if consumer is found else "holds"
            raise ConfigurationError(f"{target} {inside} {described(consumer)}, and should be {WANTED}")
        consumers.append(consumer)
    return consumers
