"""``melange outbox``: commands for the outbox of a database. Needs the extra ``melange[outbox]``."""

from __future__ import annotations

import importlib
import sys

import click

from melange.cli.options import WRONG_USAGE, complain

_NEEDED = ("filelock", "sqlalchemy")


class _OutboxCommands(click.Group):
    """Imports its commands at first use: their requirements may be missing, and take time to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._import()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._import()
        return super().get_command(ctx, cmd_name)

    def _import(self) -> None:
        try:
            commands = importlib.import_module("melange.cli.outbox.commands").COMMANDS
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in _NEEDED:
                raise
            complain("melange outbox needs SQLAlchemy and filelock: pip install 'melange[cli,outbox]'")
            sys.exit(WRONG_USAGE)
        for command in commands:
            self.add_command(command)


@click.group(cls=_OutboxCommands)
def outbox() -> None:
    """Relay an outbox, inspect it, and decide about refused messages."""
