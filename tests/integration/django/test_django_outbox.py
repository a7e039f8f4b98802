"""The outbox on Django's ORM: written by Django, published by the relay of SQLAlchemy, in the same table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from melange.outbox import metadata

PROJECT = Path(__file__).with_name("project.py")


def run(url: str, *, use_tz: bool = True) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, PROJECT, url, str(use_tz)], capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/shop.db"
        return
    url = make_url(request.getfixturevalue("postgres_url"))
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS django_outbox"))
        connection.execute(text("CREATE DATABASE django_outbox"))
    yield url.set(drivername="postgresql", database="django_outbox").render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE django_outbox WITH (FORCE)"))
    engine.dispose()


@pytest.mark.parametrize("use_tz", [True, False], ids=["with time zones", "without"])
def test_what_django_commits_is_relayed_in_order(url, use_tz) -> None:
    answer = run(url, use_tz=use_tz)

    assert answer["received"][:3] == [[number, f"message-{number}", {"tenant": "Ada"}] for number in range(3)]
    assert answer["states"] == ["sent"] * 5
    assert answer["in_harness"] == [7]
    assert "outside of a transaction" in answer["refused"]


def test_what_django_schedules_is_relayed_when_it_is_due_unless_it_is_cancelled(url) -> None:
    answer = run(url)

    assert answer["were_cancelled"] == [True, False]
    assert answer["only_the_other_is_scheduled"]
    assert [number for number, *_ in answer["received"]] == [0, 1, 2, 3]


def test_the_table_of_the_migrations_is_that_of_the_outbox(url, tmp_path) -> None:
    answer = run(url)

    engine = create_engine(f"sqlite:///{tmp_path}/plain.db")
    metadata.create_all(engine)
    tables = ("melange_outbox", "melange_outbox_scheduled")
    columns = {one["name"]: one["nullable"] for table in tables for one in inspect(engine).get_columns(table)}
    indexes = {index["name"] for table in tables for index in inspect(engine).get_indexes(table)}
    engine.dispose()
    assert answer["columns"] == columns
    assert indexes <= set(answer["indexes"])
