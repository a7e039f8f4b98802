"""The command ``melange``, and where its subcommands are."""

from __future__ import annotations

from importlib.resources import files

import click

from melange.cli.lazy_group import LazyGroup


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
)
@click.version_option(package_name="melange")
def melange() -> None:
    """Messaging for event-driven applications."""
