"""What is said about a database that cannot be used; never with its password."""

import subprocess
import sys

import pytest

PASSWORD = "s3cr3t"


@pytest.fixture
def complaint(run):
    """Run ``melange outbox status`` on a URL; return the exit code and the one line that it says."""

    def about(url: str) -> tuple[int, str]:
        result = run("outbox", "status", "--database-url", url)
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert PASSWORD[-3:] not in result.stderr
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")
        return result.exit_code, line

    return about


@pytest.mark.parametrize(
    ("url", "part"),
    [
        (f"user:{PASSWORD}", "is not a URL of a database: write postgresql+psycopg://"),
        (f"postgresql://user:{PASSWORD}@host:port/shop", "is not a URL of a database"),
        (
            f"postgres://user:{PASSWORD}@host/shop",
            "begins with postgres:// instead: write postgresql+psycopg://",
        ),
        (f"mysql://user:{PASSWORD}@host/shop", "is on PostgreSQL or SQLite"),
        (f"postgresql+asyncpg://user:{PASSWORD}@host/shop", "for asyncio"),
        (
            f"postgresql+psycho://user:{PASSWORD}@host/shop",
            "SQLAlchemy does not support postgresql+psycho://",
        ),
        (f"postgresql+psycopg2://user:{PASSWORD}@host/shop", "psycopg2: pip install 'psycopg[binary]'"),
        (f"postgresql+psycopg://user:p@{PASSWORD}@host/shop", "write %40 for each @"),
        (f"postgresql+psycopg://user:p@ss/{PASSWORD}@host/shop", "write %40 for each @"),
        (f"postgresql+psycopg://user:p@{PASSWORD}/word@host/shop", "%2F for each /"),
        (f"postgresql+psycopg://user:p@{PASSWORD}/word@host:5432/shop?sslmode=require", "write %40"),
        (f"postgresql+psycopg://us/er:{PASSWORD}@host/shop", "%2F for each /"),
        (f"sqlite://user:p@ss/{PASSWORD}@/shop.db", "write %40 for each @"),
        (f"sqlite://?timeout={PASSWORD}", "the text after the ?"),
    ],
)
def test_a_url_that_is_of_no_use_ends_with_2_and_says_what_to_write_or_install(complaint, url, part) -> None:
    code, line = complaint(url)

    assert code == 2
    assert part in line


def test_a_server_that_cannot_be_reached_ends_with_1(complaint) -> None:
    code, line = complaint(f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/shop?password={PASSWORD}")

    assert code == 1
    assert "the outbox cannot be used: OperationalError: connection" in line


def test_a_file_that_is_not_there_ends_with_1_and_is_not_made(complaint, tmp_path) -> None:
    code, line = complaint("sqlite:///shopp.db")

    assert code == 1
    assert "there is no database file shopp.db" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_ends_with_1(complaint, write) -> None:
    write("notes.txt", "buy milk\n" * 200)

    code, line = complaint("sqlite:///notes.txt")

    assert code == 1
    assert "file is not a database" in line


def test_a_database_without_the_tables_ends_with_1_and_says_how_to_create_them(complaint, write) -> None:
    write("empty.db", "")

    code, line = complaint("sqlite:///empty.db")

    assert code == 1
    assert "melange outbox schema" in line


@pytest.mark.parametrize(
    "command", ["status", "failed", "retry --all", "skip 1", "purge --older-than 1d", "relay"]
)
def test_without_a_url_each_command_asks_for_one(run, monkeypatch, command) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)

    result = run("outbox", *command.split())

    assert result.exit_code == 2
    assert "--database-url" in result.stderr


@pytest.mark.parametrize("missing", ["sqlalchemy", "filelock"])
def test_without_what_an_outbox_needs_the_command_says_what_to_install(missing) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from melange.cli.__main__ import main; sys.exit(main())"

    ended = subprocess.run(
        [sys.executable, "-c", program, "outbox", "status"], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "Error: melange outbox needs SQLAlchemy and filelock: pip install '.[cli,outbox]' in a checkout of melange\n"
    )


def test_the_other_commands_do_without_sqlalchemy() -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; from melange.cli.__main__ import main; sys.exit(main())"

    ended = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    )

    assert "outbox" in ended.stdout
