"""A Django project in one process: ``python project.py DATABASE_URL`` publishes, relays, and writes JSON."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import django
from django.conf import settings


def main(url: str, use_tz: str) -> None:
    settings.configure(
        DATABASES={"default": _database(url)},
        INSTALLED_APPS=["melange.django"],
        MELANGE={"DRIVER": "memory"},
        USE_TZ=use_tz == "True",
    )
    django.setup()
    sys.stdout.write(json.dumps(_published()))


def _database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path}
    query = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or query.pop("host", ""),
        "PORT": parts.port or "",
        "OPTIONS": query,
    }


def _published() -> dict[str, Any]:
    from django.core.management import call_command  # noqa: PLC0415 - after the settings
    from django.db import transaction  # noqa: PLC0415
    from django.db.models import F  # noqa: PLC0415
    from sqlalchemy import inspect  # noqa: PLC0415

    from melange import ConfigurationError, ExchangeMessageConsumer  # noqa: PLC0415
    from melange.django.engines import engine_of  # noqa: PLC0415
    from melange.django.models import OutboxMessage, OutboxScheduledMessage  # noqa: PLC0415
    from melange.django.outbox import Outbox  # noqa: PLC0415
    from melange.testing import Harness  # noqa: PLC0415

    # This ends the program if a migration is missing.
    call_command("makemigrations", "melange", check_changes=True, dry_run=True, verbosity=0)
    call_command("migrate", verbosity=0)
    received: list[Any] = []
    consumer = ExchangeMessageConsumer("packing", "orders")
    consumer.listener("OrderPlaced")(
        lambda event, message_id, headers: received.append([event["order_id"], message_id, dict(headers)])
    )

    with transaction.atomic():
        outbox = Outbox()
        for number in range(3):
            outbox.publish(
                "orders",
                {"order_id": number},
                "OrderPlaced",
                key="Ada",
                headers={"tenant": "Ada"},
                message_id=f"message-{number}",
            )
    try:
        with transaction.atomic():
            outbox.publish("orders", {"order_id": 99}, "OrderPlaced")
            raise KeyError
    except KeyError:
        pass
    try:
        outbox.publish("orders", {"order_id": 98}, "OrderPlaced")
        refused = ""
    except ConfigurationError as error:
        refused = str(error)

    call_command("melange_outbox", "--once")
    consumer.consume_event(wait_seconds=0)

    with transaction.atomic():
        due = outbox.publish("orders", {"order_id": 3}, "OrderPlaced", delay_seconds=3_600)
        cancelled = outbox.publish("orders", {"order_id": 4}, "OrderPlaced", delay_seconds=3_600)
    with transaction.atomic():
        were_cancelled = [outbox.cancel(cancelled), outbox.cancel(cancelled)]
    scheduled = list(OutboxScheduledMessage.objects.values_list("message_id", flat=True))
    OutboxScheduledMessage.objects.update(due_at=F("due_at") - timedelta(hours=2))
    call_command("melange_outbox", "--once")
    consumer.consume_event(wait_seconds=0)
    with Harness() as harness:
        with transaction.atomic():
            Outbox().publish("orders", {"order_id": 7}, "OrderPlaced")
        harness.settle()
        in_harness = [event["order_id"] for event in harness.published("OrderPlaced")]

    engine = engine_of("default")
    tables = ("melange_outbox", "melange_outbox_scheduled")
    columns = [column for table in tables for column in inspect(engine).get_columns(table)]
    indexes = [index for table in tables for index in inspect(engine).get_indexes(table)]
    answer = {
        "received": received,
        "refused": refused,
        "were_cancelled": were_cancelled,
        "only_the_other_is_scheduled": scheduled == [due],
        "in_harness": in_harness,
        "states": list(OutboxMessage.objects.order_by("id").values_list("state", flat=True)),
        "columns": {column["name"]: column["nullable"] for column in columns},
        "indexes": sorted(index["name"] for index in indexes),
    }
    engine.dispose()
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
