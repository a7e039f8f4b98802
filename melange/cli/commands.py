"""The command ``melange``, which finds its subcommands by name."""

from __future__ import annotations

import importlib
from importlib.resources import files

import click

from melange.errors import nearest


@click.command()
def guide() -> None:
    """Print the library on three pages, for people and coding assistants."""
    click.echo(files("melange").joinpath("guide.md").read_text(encoding="utf-8"), nl=False)


_SUBCOMMANDS = {
    "console": "melange.cli.console:console",
    "dead-letters": "melange.cli.dead_letters:dead_letters",
    "guide": "melange.cli.commands:guide",
    "outbox": "melange.cli.outbox:outbox",
    "topology": "melange.cli.topology:topology",
    "server": "melange.cli.server:server",
    "worker": "melange.cli.worker:worker",
}
"""Where each one is. It is imported only when it is asked for: what it needs takes time, or may be missing."""


class _Subcommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _SUBCOMMANDS:
            if ctx.resilient_parsing:  # of a shell that completes what is typed
                return None
            ctx.fail(f"No such command {cmd_name!r}{nearest(cmd_name, _SUBCOMMANDS)}.")
        module_name, _, attribute = _SUBCOMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Subcommands)
@click.version_option(package_name="melange")
def melange() -> None:
    """Messaging for event-driven applications."""
