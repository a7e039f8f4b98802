"""``melange dead-letters``: look at dead letters and decide about them."""

from __future__ import annotations

import click

from melange.cli.commands import LazyGroup


@click.group(
    cls=LazyGroup,
    commands={
        "list": "melange.cli.dead_letters.list_and_show:list_command",
        "show": "melange.cli.dead_letters.list_and_show:show",
        "retry": "melange.cli.dead_letters.actions:retry",
        "remove": "melange.cli.dead_letters.actions:remove",
        "export": "melange.cli.dead_letters.actions:export",
        "import": "melange.cli.dead_letters.actions:import_command",
        "move": "melange.cli.dead_letters.actions:move",
    },
    needed=("rich",),
    advice="melange dead-letters needs rich: pip install '.[cli]' in a checkout of melange",
)
def dead_letters() -> None:
    """Look at dead letters, retry them and remove them.

    QUEUE is the queue where the messages failed, or a dead-letter queue itself.

    Exit codes of all commands: 0 done; 1 something is not done, or another try may help; 2 wrong usage or configuration.
    """
