"""``after_commit`` with Django's ``transaction.on_commit``, as it is."""

from __future__ import annotations

from collections.abc import Iterator

import django
import pytest
from django.conf import settings
from django.db import connection, transaction

from melange.domain import Subscribers


@pytest.fixture(scope="module", autouse=True)
def _database() -> Iterator[None]:
    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    django.setup()
    yield
    connection.close()


@pytest.fixture
def publish(bus, seen):
    group = Subscribers()
    group.on(str)(bus.after_commit(seen.append))
    with bus.scope(group, on_commit=transaction.on_commit):
        yield bus.publish


class RollBack(Exception):
    pass


def publish_and_roll_back(publish, event: str) -> None:
    with transaction.atomic():
        publish(event)
        raise RollBack


def test_a_handler_runs_after_the_commit(publish, seen) -> None:
    with transaction.atomic():
        publish("committed")
        before = list(seen)

    assert (before, seen) == ([], ["committed"])


def test_it_never_runs_if_the_transaction_is_rolled_back(publish, seen) -> None:
    with pytest.raises(RollBack):
        publish_and_roll_back(publish, "dropped")

    assert seen == []


def test_it_runs_at_once_where_there_is_no_transaction(publish, seen) -> None:
    publish("at once")

    assert seen == ["at once"]


def test_savepoints_are_kept_and_dropped_with_their_fate(publish, seen) -> None:
    with transaction.atomic():
        with transaction.atomic():
            publish("released")
        with pytest.raises(RollBack):
            publish_and_roll_back(publish, "dropped")
        before = list(seen)

    assert (before, seen) == ([], ["released"])
