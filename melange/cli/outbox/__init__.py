"""``melange outbox``: commands for the outbox of a database. Needs the extra ``melange[outbox]``."""

from __future__ import annotations

import click

from melange.cli.options import LazyGroup


@click.group(
    cls=LazyGroup,
    commands_module="melange.cli.outbox.commands",
    needed=("filelock", "sqlalchemy"),
    advice="melange outbox needs SQLAlchemy and filelock: pip install 'melange[cli,outbox]'",
)
def outbox() -> None:
    """Relay an outbox, inspect it, and decide about refused messages."""
