"""``manage.py melange_outbox``: relays the outbox of the project."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from melange.django.configuration import Configuration
from melange.django.engines import engine_of
from melange.errors import MelangeError
from melange.outbox import OutboxRelay


class Command(BaseCommand):
    """Publishes committed messages until SIGTERM or SIGINT."""

    help = "Publishes the committed messages of the outbox until SIGTERM or SIGINT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--database", help="the alias of the database; by default MELANGE['DATABASE']")
        parser.add_argument("--batch-size", type=int, default=100, help="messages that are marked at once")
        parser.add_argument("--no-declare", action="store_true", help="create no topics")
        parser.add_argument("--once", action="store_true", help="publish what is pending, and end")

    def handle(
        self, *, database: str | None, batch_size: int, no_declare: bool, once: bool, **_options: Any
    ) -> None:
        try:
            alias = database or Configuration.of_project().database
            engine = engine_of(alias)
            relay = OutboxRelay(engine, declare=not no_declare, batch_size=batch_size)
            if once:
                self.stdout.write(f"published {relay.relay_pending()} messages")
                return
            self.stdout.write(f"relaying the outbox of database {alias!r}, until SIGTERM or SIGINT")
            code = relay.run()
        except MelangeError as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)
