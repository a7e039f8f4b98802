"""``melange dead-letters``: look at dead letters and decide about them."""

from __future__ import annotations

import click

from melange.cli.options import LazyGroup


@click.group(
    cls=LazyGroup,
    commands_module="melange.cli.dead_letters.commands",
    needed=("rich",),
    advice="melange dead-letters needs rich: pip install 'melange[cli]'",
)
def dead_letters() -> None:
    """Look at dead letters, retry them and remove them.

    QUEUE is the queue where the messages failed, or a dead-letter queue itself.

    Exit codes of all commands: 0 done; 1 something is not done, or another try may help; 2 wrong usage or configuration.
    """
