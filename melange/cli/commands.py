"""The command ``melange``, and the groups that import a command only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any

import click

from melange.cli.failures import WRONG_USAGE, complain
from melange.errors import nearest


class LazyGroup(click.Group):
    """Imports a command when it is asked for: what it needs takes time to import, or may be missing.

    ``commands`` has the place of each by its name, as ``module:attribute``. If a module of ``needed`` is missing,
    ``advice`` is shown.
    """

    def __init__(
        self, *, commands: Mapping[str, str], needed: Collection[str] = (), advice: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self._places = commands
        self._needed = needed
        self._advice = advice

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            if ctx.resilient_parsing:  # of a shell that completes what is typed
                return None
            ctx.fail(f"No such command {cmd_name!r}{nearest(cmd_name, self._places)}.")
        module_name, _, attribute = self._places[cmd_name].partition(":")
        try:
            command = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in self._needed:
                raise
            complain(self._advice)
            sys.exit(WRONG_USAGE)
        assert isinstance(command, click.Command)
        return command


@click.command(short_help="Print the guide: the library on three pages.")
def guide() -> None:
    """Print the library on three pages, for people and coding assistants."""
    click.echo(files("melange").joinpath("guide.md").read_text(encoding="utf-8"), nl=False)


@click.group(
    cls=LazyGroup,
    commands={
        "console": "melange.cli.console:console",
        "dead-letters": "melange.cli.dead_letters:dead_letters",
        "guide": "melange.cli.commands:guide",
        "outbox": "melange.cli.outbox:outbox",
        "server": "melange.cli.server:server",
        "topology": "melange.cli.topology:topology",
        "worker": "melange.cli.worker:worker",
    },
    context_settings={"help_option_names": ["-h", "--help"]},  # of all commands below
)
@click.version_option(package_name="melange")
def melange() -> None:
    """Messaging for event-driven applications."""
