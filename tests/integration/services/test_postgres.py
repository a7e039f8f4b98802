"""The PostgreSQL of the tests: it keeps what was committed, whatever ends it, and none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from services.postgres import PostgresServer, database_of_its_own

TESTS = Path(__file__).parent.parent.parent
OWNER = """
import time
from services import postgres
with postgres.run() as server:
    print(server.url, server.directory, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", [PostgresServer.kill, PostgresServer.stop])
def test_what_was_committed_is_there_after_a_restart(postgres_server, ending) -> None:
    with connected(postgres_server.url) as connection:
        connection.execute(text("CREATE TABLE kept AS SELECT 7 AS number"))
        connection.commit()

    ending(postgres_server)
    postgres_server.start()

    with connected(postgres_server.url) as connection:
        assert connection.scalar(text("SELECT number FROM kept")) == 7


@pytest.mark.parametrize("ending", [PostgresServer.kill, PostgresServer.stop])
def test_one_that_was_ended_takes_no_connections_and_cuts_those_it_had(postgres_server, ending) -> None:
    with connected(postgres_server.url) as connection:
        connection.execute(text("SELECT 1"))

        ending(postgres_server)

        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
    with pytest.raises(OperationalError), connected(postgres_server.url):
        pass


def test_databases_on_one_server_are_apart_and_dropped_in_the_end(postgres_url) -> None:
    with database_of_its_own(postgres_url) as first, database_of_its_own(postgres_url) as second:
        with connected(first) as connection:
            connection.execute(text("CREATE TABLE only_here (number integer)"))
            connection.commit()

        with connected(second) as connection:
            assert connection.scalar(text("SELECT to_regclass('only_here')")) is None
    with pytest.raises(OperationalError, match="does not exist"), connected(first):
        pass


def test_who_may_not_create_databases_gets_the_one_given(postgres_server) -> None:
    with connected(postgres_server.url) as connection:
        connection.execute(text("CREATE ROLE guest LOGIN"))
        connection.commit()
    given = postgres_server.url.replace("//postgres@", "//guest@")

    with database_of_its_own(given) as url:
        assert url == given


def test_nothing_of_it_is_left_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=TESTS)
    with owner:
        url, directory = owner.stdout.readline().split()
        connection = psycopg.connect(url.replace("+psycopg", ""))

        owner.send_signal(signal.SIGKILL)

    # The directory goes last, once all processes have.
    deadline = time.monotonic() + 30
    while Path(directory).exists():
        assert time.monotonic() < deadline, "the directory is still there"
        time.sleep(0.05)
    assert not Path(f"/proc/{connection.info.backend_pid}").exists()
    connection.close()


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
