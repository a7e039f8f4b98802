"""What the commands for topologies share: which program, on which broker, and how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from melange.cli.failures import TRY_AGAIN, failures_shown
from melange.cli.targets import load_target
from melange.drivers.base import MessagingDriver
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError
from melange.topology.collecting import collect
from melange.topology.document import combined, from_document
from melange.topology.model import Topology

DRIFT = 2
"""The exit code when the broker is not as the program wants it."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Program:
    """The topology of the targets, the driver, and the arguments as they were typed, for commands to copy."""

    topology: Topology
    driver: MessagingDriver | None
    typed: str

    def broker(self) -> MessagingDriver:
        """Return the driver: of the program, or by default AWS for topologies of files alone."""
        if self.driver is not None:
            return self.driver
        return DriverManager.instance().use_driver(driver_name="aws", prefix=self.topology.prefix)


def targets_argument(command: _Command) -> _Command:
    """Add TARGET and ``--name``."""
    name = click.option(
        "--name",
        metavar="NAME",
        help="The name that marks the queues of this program.  [default: the first part of the first module]",
    )
    target = click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
    return target(name(command))


def _old_and_new(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    renamed = {old: new for old, _, new in (pair.partition("=") for pair in pairs)}
    if not all(renamed) or not all(renamed.values()):
        raise click.BadParameter("write OLD=NEW, the names of two queues")
    return renamed


renamed_option = click.option(
    "--renamed",
    metavar="OLD=NEW",
    multiple=True,
    callback=_old_and_new,
    help="A queue's old and new name: its messages move, with their ids, and the old queue is removed.",
)


def load_program(targets: Sequence[str], name: str | None) -> Program:
    """Load the targets as one program.

    Raises:
        ConfigurationError, TargetError: as ``targets.load_target``, or a file cannot be read.
    """
    name = name or _default_name(targets[0])
    models: list[Topology] = []
    driver: MessagingDriver | None = None
    for target in targets:
        if target.endswith(".json"):
            models.append(_read(Path(target)))
        else:
            collected = collect(name, partial(load_target, target))
            models.append(collected.topology)
            driver = driver or collected.driver
    typed = " ".join(targets)
    if name != _default_name(targets[0]):
        typed += f" --name {name}"
    return Program(combined(name, models), driver, typed)


def _default_name(target: str) -> str:
    if target.endswith(".json") and Path(target).exists():
        return _read(Path(target)).name
    return target.partition(":")[0].partition(".")[0]


def _read(path: Path) -> Topology:
    try:
        return from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


@contextmanager
def failures_end_with_1() -> Iterator[None]:
    """Show failures as the other commands do, and end with 1 always: 2 means drift here."""
    try:
        with failures_shown():
            yield
    except SystemExit as ended:
        sys.exit(TRY_AGAIN if ended.code else 0)


def write_json(document: object) -> None:
    """Write the document to standard output."""
    click.echo(json.dumps(document, indent=2))
