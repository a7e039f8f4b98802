"""``manage.py melange_worker``: runs the consumers of the project."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from melange.consuming.worker import Worker
from melange.django.configuration import Configuration
from melange.errors import MelangeError


class Command(BaseCommand):
    """Consumes until SIGTERM or SIGINT."""

    help = "Runs the consumers of MELANGE['CONSUMERS'] until SIGTERM or SIGINT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--concurrency", type=int, default=10, help="deliveries in flight at once")
        parser.add_argument(
            "--grace-seconds", type=float, default=25.0, help="how long listeners may continue after the stop"
        )

    def handle(self, *, concurrency: int, grace_seconds: float, **_options: Any) -> None:
        try:
            consumers = Configuration.of_project().made_consumers()
            worker = Worker(*consumers, concurrency=concurrency, grace_seconds=grace_seconds)
            queues = ", ".join(consumer.queue.name for consumer in consumers)
            self.stdout.write(f"working on {queues}, until SIGTERM or SIGINT")
            code = worker.run()
        except MelangeError as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)
