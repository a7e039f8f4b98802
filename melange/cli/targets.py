"""Load the worker or another object from ``package.module:attribute``."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from melange.cli.failures import TargetError
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.worker import Worker
from melange.errors import ConfigurationError, DeduplicationError, DriverError, OutboxError, nearest
from melange.signals import calling_on_signal

logger = logging.getLogger(__name__)

FORM = "write package.module:attribute, such as shop.consumers:stock"
WANTED = "a Worker, an ExchangeMessageConsumer, a list of consumers, or a function that returns one of these"

_UNAVAILABLE = (DeduplicationError, DriverError, OutboxError)
"""Errors that name a failure outside of the program. A traceback of the program adds nothing."""


def load_worker(target: str, *, concurrency: int | None = None, grace_seconds: float | None = None) -> Worker:
    """Load ``target`` and return a worker for it. None means the worker's own default.

    Raises:
        ConfigurationError: the target does not exist, cannot be run, or a number is out of bounds.
        TargetError, DriverError, DeduplicationError, OutboxError: as ``load_target`` does.
    """
    found = load_target(target)
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


def load_target(target: str) -> object:
    """Import ``target`` and return it, or the result of calling it if it is a function.

    Importing runs the target's code. The working directory is searched first, as ``python -m`` does. A signal to
    stop ends the process meanwhile, with exit code 0. For the main thread only.

    Raises:
        ConfigurationError: the target does not exist.
        TargetError: the target's own code failed.
        DriverError, DeduplicationError, OutboxError: the same, because a service is unavailable.
    """
    check_form(target)
    module_name, _, attribute = target.partition(":")
    with calling_on_signal(_end_before_the_start):
        found = _find(module_name, attribute)
        return _call(target, found) if callable(found) and not isinstance(found, type) else found


def check_form(target: str) -> None:
    """Check the form of the target, without importing anything.

    Raises:
        ConfigurationError: it cannot be the name of an attribute of a module.
    """
    module_name, _, attribute = target.partition(":")
    names = [*module_name.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names) or module_name.endswith(".py"):
        raise ConfigurationError(f"{target!r} names no attribute of a module: {FORM}")


def described(value: object) -> str:
    """Return a description of the type that ``load_target`` has found, for error texts."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _end_before_the_start() -> None:
    # Nothing has been received, so there is nothing to drain. An exception would not do: a program that is
    # imported may catch it, as it does with whatever its tries to connect raise.
    with suppress(RuntimeError):  # when the signal came amid another line for standard error
        logger.info("stopped before the work began")
    os._exit(0)


def _find(module_name: str, attribute: str) -> object:
    found, path = _import(module_name), f"module {module_name}"
    for name in attribute.split("."):
        try:
            with _own_failures(f"looking for {name} in {path}", but=AttributeError):
                found, path = getattr(found, name), name
        except AttributeError:
            public = [other for other in dir(found) if not other.startswith("_")]
            raise ConfigurationError(f"{path} has no attribute {name!r}{nearest(name, public)}") from None
    return found


def _import(module_name: str) -> object:
    try:
        working_directory = str(Path.cwd())
    except FileNotFoundError:
        raise ConfigurationError("the working directory was deleted: change to one that exists") from None
    if working_directory not in sys.path:
        sys.path.insert(0, working_directory)
    if os.environ.get("DJANGO_SETTINGS_MODULE") and find_spec("django"):
        with _own_failures("setting up Django for DJANGO_SETTINGS_MODULE"):
            _set_up_django()
    with _own_failures(f"importing {module_name}"):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # a module that the target imports
            missing = error.name
    raise ConfigurationError(
        f"there is no module {missing}: looked in {working_directory} and where Python finds packages"
    )


def _set_up_django() -> None:
    """Load the project's apps, so that the target can import their models. Does nothing the second time."""
    import django  # noqa: PLC0415 - most programs are without it

    django.setup()


def _call(target: str, function: Callable[..., object]) -> object:
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{target} is asynchronous: name a plain function, or what it would return")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(f"{target} is called without arguments: {error}") from None
    except ValueError:  # a callable in C without a signature
        pass
    with _own_failures(f"calling {target}"):
        return function()


@contextmanager
def _own_failures(doing: str, *, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Wrap what the program's own code raises in the block, except for ``but`` and an interrupt by the operator."""
    try:
        yield
    except but:
        raise
    except _UNAVAILABLE:
        raise
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise TargetError(
            f"{doing} ended the program by sys.exit({error.code!r}): name a module that only defines what is to be run"
        ) from error
    except BaseException as error:
        raise TargetError(f"{doing} failed with {type(error).__name__}: {error}") from error


def _consumers(target: str, found: object) -> list[ExchangeMessageConsumer]:
    if isinstance(found, (list, tuple)) and not found:
        raise ConfigurationError(f"{target} is empty, and should hold the consumers to run")
    consumers = []
    for consumer in found if isinstance(found, (list, tuple)) else [found]:
        if not isinstance(consumer, ExchangeMessageConsumer):
            inside = "is" if consumer is found else "holds"
            raise ConfigurationError(f"{target} {inside} {described(consumer)}, and should be {WANTED}")
        consumers.append(consumer)
    return consumers
