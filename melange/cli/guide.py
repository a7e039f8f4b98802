"""The command ``melange guide``."""

from __future__ import annotations

from importlib.resources import files

import click


@click.command()
def guide() -> None:
    """Print the library on three pages, for people and coding assistants."""
    click.echo(files("melange").joinpath("guide.md").read_text(encoding="utf-8"), nl=False)
