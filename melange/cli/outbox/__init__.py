"""``melange outbox``: commands for the outbox of a database. Needs the extra ``melange[outbox]``."""

from __future__ import annotations

import click

from melange.cli.commands import LazyGroup


@click.group(
    short_help="Run the relay of an outbox, and inspect it.",
    cls=LazyGroup,
    commands={
        "relay": "melange.cli.outbox.relay:relay",
        **{
            name: f"melange.cli.outbox.administration:{name}"
            for name in ("status", "scheduled", "cancel", "failed", "retry", "skip", "purge", "schema")
        },
    },
    needed=("filelock", "sqlalchemy"),
    advice="melange outbox needs SQLAlchemy and filelock: pip install '.[cli,outbox]' in a checkout of melange",
)
def outbox() -> None:
    """Relay an outbox, inspect it, and decide about refused messages."""
