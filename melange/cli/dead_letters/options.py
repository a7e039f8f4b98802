"""What the commands for dead letters share: which broker, which queue, which letters, and what is said of those left."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TextIO, TypeVar

import click

from melange.cli.failures import complain, failures_shown
from melange.cli.options import duration
from melange.cli.targets import described, load_target
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.worker import Worker
from melange.drivers.base import MessagingDriver
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError, MelangeError
from melange.operations import DeadLetters, Selection, exported_letters
from melange.serialization.serializer import EventSerializer
from melange.signals import calling_on_signal

_MOST_IDS = 10
_MOST_FAILURES = 10

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Connection:
    """The broker that a command works on, until it ends.

    ``serializer`` is that of the program, and None if no program was named. ``stopping`` returns True after a signal.
    """

    driver: MessagingDriver
    serializer: EventSerializer | None
    stopping: Callable[[], bool]

    def dead_letters(self, queue_name: str) -> DeadLetters:
        """Return the dead letters of a queue."""
        return DeadLetters(queue_name, self.driver)


@contextmanager
def connect(app: str | None, driver_name: str | None) -> Iterator[Connection]:
    """Connect to the broker of the program ``app``, or to that of the driver; show what fails, and end the process.

    The first SIGINT or SIGTERM lets the command end soon, and release what it holds; a second one ends it at once.
    """
    with failures_shown():
        if app is not None and driver_name is not None:
            raise ConfigurationError("--app or --driver: only one of them can say which broker")
        if app is None:
            name = driver_name or "aws"
            if name == "memory":
                raise ConfigurationError(
                    "the driver 'memory' is empty when this command starts: name a program with --app"
                )
            driver, serializer = DriverManager.instance().use_driver(driver_name=name), None
        else:
            driver, serializer = _of_program(app)
        stopping = threading.Event()
        with driver, calling_on_signal(stopping.set):
            yield Connection(driver, serializer, stopping.is_set)


def _of_program(app: str) -> tuple[MessagingDriver, EventSerializer]:
    found = load_target(app)
    if isinstance(found, Worker):
        found = found.consumers
    if isinstance(found, (list, tuple)) and found:
        found = found[0]
    if isinstance(found, ExchangeMessageConsumer):
        found = found.driver
    if not isinstance(found, MessagingDriver):
        raise ConfigurationError(
            f"{app} is {described(found)}, and should be a driver, a consumer, a Worker, or a function that returns one"
        )
    return found, found.serializer


def broker_options(command: _Command) -> _Command:
    """Add ``--app`` and ``--driver``."""
    app = click.option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="The program: a driver, consumer or Worker, or a function that returns one. It says which broker, "
        "and which fields are sensitive.",
    )
    driver = click.option(
        "--driver", "driver_name", metavar="NAME", help="The broker, without a program.  [default: aws]"
    )
    return app(driver(command))


def _pairs(what: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    def read(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
        for text in texts:
            if "=" not in text:
                raise click.BadParameter(f"{text!r} has no value: write {what}=VALUE")
        return dict(text.split("=", 1) for text in texts)

    return read


_FILTERS = {
    "reason": click.option(
        "--reason", metavar="TEXT", help="Dead letters with this text in the reason, in any case."
    ),
    "listener_name": click.option(
        "--listener", "listener_name", metavar="NAME", help="Dead letters of this listener."
    ),
    "event_type_name": click.option(
        "--type", "event_type_name", metavar="NAME", help="Dead letters of this event type."
    ),
    "queue_name": click.option(
        "--from-queue", "queue_name", metavar="NAME", help="Dead letters that failed in this queue."
    ),
    "origin": click.option(
        "--origin",
        type=click.Choice(["consumer", "broker", "unknown"]),
        help="Dead letters that a consumer rejected, that the broker moved, or of which neither is known.",
    ),
    "older_than_seconds": click.option(
        "--older-than",
        "older_than_seconds",
        type=duration,
        metavar="DURATION",
        help="Dead for longer than this: 90s, 15m, 12h, 7d.",
    ),
    "younger_than_seconds": click.option(
        "--younger-than",
        "younger_than_seconds",
        type=duration,
        metavar="DURATION",
        help="Dead for at most this time.",
    ),
    "headers": click.option(
        "--header",
        "headers",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_pairs("NAME"),
        help="Dead letters with this header.",
    ),
    "fields": click.option(
        "--field",
        "fields",
        metavar="PATH=VALUE",
        multiple=True,
        callback=_pairs("PATH"),
        help="Dead letters with this field in the body, such as customer.id=17.",
    ),
}
"""The filters by the names of their parameters, which are those of ``Selection``."""

_exported_option = click.option(
    "--exported",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The dead letters that `export` has written to this file, and no later ones.",
)


def _with_exported(selection: Selection, file: TextIO) -> Selection:
    if selection.message_ids:
        raise click.UsageError("IDs or --exported: only one of them can say which")
    try:
        exported = exported_letters(file)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--exported") from error
    return replace(selection, message_ids=exported.message_ids, dead_since=exported.dead_since)


def selection_options(*, with_ids: bool) -> Callable[[_Command], Callable[..., Any]]:
    """Add the filters, and IDs as arguments; the command gets them all as ``selection``."""

    def add(command: _Command) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_selection(*arguments: Any, **keywords: Any) -> Any:
            filters = {name: keywords.pop(name) for name in _FILTERS}
            ids = frozenset(keywords.pop("message_ids", ()))
            exported = keywords.pop("exported", None)
            selection = Selection(message_ids=ids, **filters)
            if exported is not None:
                selection = _with_exported(selection, exported)
            return command(*arguments, selection=selection, **keywords)

        result: Callable[..., Any] = with_selection
        for option in reversed(_FILTERS.values()):
            result = option(result)
        if with_ids:
            result = _exported_option(click.argument("message_ids", metavar="[ID]...", nargs=-1)(result))
        return result

    return add


queue_argument = click.argument("queue_name_given", metavar="QUEUE")


def unseen(ids: Iterable[str], letters: DeadLetters) -> MelangeError:
    """Return the error for ids that were not seen in the queue. It ends the command with 1."""
    ids = sorted(ids)
    shown = ", ".join(ids[:_MOST_IDS])
    more = f" and {len(ids) - _MOST_IDS:,} more" if len(ids) > _MOST_IDS else ""
    return MelangeError(
        f"not seen in {letters.queue.name}: {shown}{more}. It may be in flight elsewhere, or retried already"
    )


def complain_of_failures(errors: Sequence[tuple[str, str]]) -> None:
    """Write the first errors, each with the id of its message."""
    for message_id, error in errors[:_MOST_FAILURES]:
        complain(f"message {message_id}: {error}")
    if len(errors) > _MOST_FAILURES:
        complain(f"and {len(errors) - _MOST_FAILURES:,} more: --json lists them all")
