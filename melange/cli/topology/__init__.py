"""``melange topology``: compare the topics and queues of a program with its broker, make them, export and draw them."""

from __future__ import annotations

from typing import Any

import click

from melange.cli.commands import LazyGroup
from melange.cli.failures import TRY_AGAIN


class _Group(LazyGroup):
    """Ends with 1 for wrong usage: 2 means drift here."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.show()
            ctx.exit(TRY_AGAIN)


@click.group(
    short_help="Compare, create and export topics and queues.",
    cls=_Group,
    commands={
        "apply": "melange.cli.topology.plan_apply_doctor:apply",
        "doctor": "melange.cli.topology.plan_apply_doctor:doctor",
        "export": "melange.cli.topology.export_and_graph:export",
        "graph": "melange.cli.topology.export_and_graph:graph",
        "plan": "melange.cli.topology.plan_apply_doctor:plan",
    },
    needed=("rich",),
    advice="melange topology needs rich: pip install '.[cli]' in a checkout of melange",
)
def topology() -> None:
    """Show, make, check and export the topics and queues of a program.

    TARGET is MODULE:ATTRIBUTE: a function that creates the consumers and publishers, a Worker, a consumer, a list of
    them; or a file that `export --format json` has written. Several targets become one topology. Nothing is declared
    while a target is loaded.

    Exit codes: 0 the broker is as the program wants it; 1 the command failed, or its usage is wrong; 2 it is not, or
    `doctor` has found errors.
    """
