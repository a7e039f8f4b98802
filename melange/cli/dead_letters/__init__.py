"""``melange dead-letters``: look at dead letters and decide about them."""

from __future__ import annotations

import importlib
import sys

import click

from melange.cli.options import WRONG_USAGE, complain


class _DeadLetterCommands(click.Group):
    """Imports its commands at first use: rich takes time to import, and may be missing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._import()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._import()
        return super().get_command(ctx, cmd_name)

    def _import(self) -> None:
        try:
            commands = importlib.import_module("melange.cli.dead_letters.commands").COMMANDS
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "rich":
                raise
            complain("melange dead-letters needs rich: pip install 'melange[cli]'")
            sys.exit(WRONG_USAGE)
        for command in commands:
            self.add_command(command)


@click.group(cls=_DeadLetterCommands)
def dead_letters() -> None:
    """Look at dead letters, retry them and remove them.

    QUEUE is the queue where the messages failed, or a dead-letter queue itself.

    Exit codes of all commands: 0 done; 1 something is not done, or another try may help; 2 wrong usage or configuration.
    """
