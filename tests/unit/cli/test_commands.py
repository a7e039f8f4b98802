"""What the command says, and the codes with which it ends when nothing runs."""

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import click
import pytest
from click.testing import CliRunner

from melange.cli.commands import melange

SHOP = """
from melange import ExchangeMessageConsumer, QueueOptions, Worker
from melange.drivers.memory import InMemoryDriver

stock = ExchangeMessageConsumer("stock", "products", driver=InMemoryDriver(), queue=QueueOptions(wait_seconds=0))
stock.listener("ProductAdded", name="shelves")(print)
silent = ExchangeMessageConsumer("silent", driver=InMemoryDriver())
stopped = Worker(stock, concurrency=3, grace_seconds=7)
stopped.stop()
"""


@pytest.fixture(autouse=True)
def shop(write):
    write("shop.py", SHOP)


def test_the_version_is_the_package_s(run) -> None:
    result = run("--version")

    assert (result.exit_code, result.stdout) == (0, f"melange, version {version('melange')}\n")


@pytest.mark.parametrize("command", [[], ["worker"], ["dead-letters", "retry"]], ids=" ".join)
def test_help_has_a_short_option(run, command) -> None:
    result = run(*command, "-h")

    assert result.exit_code == 0
    assert result.stdout == run(*command, "--help").stdout != ""


def test_a_worker_that_stops_cleanly_ends_with_0_and_has_said_what_ran(run) -> None:
    result = run("worker", "shop:stopped")

    assert result.exit_code == 0
    assert f"melange {version('melange')} runs shop:stopped in one process" in result.stderr
    assert "queue stock (InMemoryDriver) for shelves; concurrency 3, grace period 7 s" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["shop:stock", "--concurrency", "0"],
        ["shop:stock", "--concurrency", "many"],
        ["shop:stock", "--grace-seconds", "0"],
        ["shop:stock", "--grace-seconds", "3601"],
        ["shop:stock", "--grace-seconds", "nan"],
        ["shop:stock", "--processes", "0"],
        ["shop:stock", "--log-level", "loud"],
        ["shop:stock", "--log-format", "xml"],
        ["shop:stock", "--health-file", "no/such/directory/health"],
        ["shop:stock", "--health-port", "http"],
        ["shop:stock", "--health-port", "70000"],
        ["shop:stock", "--health-port", "65535", "--processes", "2"],
        ["shop:stock", "--concurency", "2"],
        ["shop:stok"],
        ["nowhere:stock"],
        ["shop:silent"],
        ["shop:stopped", "--concurrency", "2"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_one_complaint(run, arguments) -> None:
    result = run("worker", *arguments)

    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr


def test_a_command_that_is_misspelt_is_answered_with_the_nearest_one(run) -> None:
    result = run("wroker", "shop:stock")

    assert result.exit_code == 2
    assert "No such command 'wroker' (did you mean 'worker'?)" in result.stderr


def test_asking_for_one_command_does_not_import_another(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "melange.cli.outbox", None)  # an import of it fails

    assert run("worker", "--help").exit_code == 0


def test_the_help_imports_no_client_and_no_templates() -> None:
    program = """
import sys
from melange.cli.commands import melange
melange(["--help"], standalone_mode=False)
print(*{name.partition('.')[0] for name in sys.modules})
"""

    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert "worker" in printed
    packages = set(printed.splitlines()[-1].split())
    assert not packages & {"boto3", "cryptography", "jinja2", "redis", "rich", "sqlalchemy"}


def test_the_help_needs_nothing_that_windows_lacks() -> None:
    program = "import sys; sys.modules['resource'] = None; from melange.cli.commands import melange; melange(['--help'])"

    assert (
        "worker"
        in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_several_processes_are_not_even_started_for_a_target_of_another_form(run) -> None:
    result = run("worker", "shop", "--processes", "2")

    assert result.exit_code == 2
    assert "write package.module:attribute" in result.stderr
    assert "2 processes" not in result.stderr


def test_a_failure_inside_the_module_is_shown_from_where_the_module_begins(run, write) -> None:
    write("broken.py", "import nowhere_to_be_found\n")

    result = run("worker", "broken:stock")

    assert result.exit_code == 2
    assert 'broken.py", line 1, in <module>\n    import nowhere_to_be_found\n' in result.stderr
    assert "importlib" not in result.stderr


def test_a_failure_cannot_forge_lines_or_move_the_cursor(run, write) -> None:
    write("broken.py", "raise ValueError('one\\x1b[2Jtwo\\rthree')\n")

    result = run("worker", "broken:stock")

    assert result.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "failure",
    [
        "from melange import ConfigurationError as Failure",
        "from melange.errors import UnknownDriverError\nFailure = lambda _: UnknownDriverError('kafka', [])",
        "Failure = ModuleNotFoundError",
        "Failure = SyntaxError",
    ],
)
def test_what_the_program_would_raise_at_every_start_ends_with_2(run, write, failure) -> None:
    write("failing.py", f"{failure}\nraise Failure('text')\n")

    assert run("worker", "failing:stock").exit_code == 2


@pytest.mark.parametrize(
    "failure",
    [
        "from melange import AccessDeniedError as Failure",  # credentials that are not there yet
        "from melange import DriverConnectionError as Failure",
        "from melange import DeduplicationError as Failure",
        "from melange.errors import OutboxError as Failure",
        "from melange.errors import QueueNotFoundError as Failure",
        "from sqlalchemy.exc import DBAPIError\nFailure = lambda text: DBAPIError(text, None, Exception())",
        "from redis import ConnectionError as Failure",
        "from botocore.exceptions import BotoCoreError\nFailure = lambda _: BotoCoreError()",
        "Failure = ConnectionRefusedError",
        "Failure = TimeoutError",
        "Failure = KeyError",  # of an environment that is not complete yet
        "Failure = RuntimeError",
        "Failure = SystemExit",
        "Failure = MemoryError",
    ],
)
def test_what_another_minute_may_mend_ends_with_1(run, write, failure) -> None:
    write("failing.py", f"{failure}\nraise Failure('text')\n")

    result = run("worker", "failing:stock")

    assert result.exit_code == 1
    assert result.stderr.count("\nError: ") == 1


def test_an_unavailable_broker_is_said_without_a_traceback(run, write) -> None:
    write(
        "failing.py",
        "from melange import DriverConnectionError\nraise DriverConnectionError('no broker') from OSError()",
    )

    result = run("worker", "failing:stock")

    assert "Error: no broker" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_guide_is_printed_as_the_package_has_it(run) -> None:
    result = run("guide")

    assert (result.exit_code, result.stdout) == (0, files("melange").joinpath("guide.md").read_text())


def test_with_json_logs_a_failure_is_a_record_too(run, write) -> None:
    write("failing.py", "raise ValueError('text')")

    result = run("worker", "failing:stock", "--log-format", "json")

    last = json.loads(result.stderr.splitlines()[-1])
    assert last["level"] == "CRITICAL"
    assert last["message"] == "importing failing failed with ValueError: text"
    assert "melange/cli" not in last["traceback"]


def _commands(command, path="melange"):
    """Yield each command with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(path, command, id=path) for path, command in _commands(melange)]
)
def test_each_command_explains_itself_and_its_options(path, command) -> None:
    help_text = CliRunner().invoke(command, ["--help"]).output

    assert "..." not in help_text.partition("Commands:")[2]  # no summary is cut
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, option.name
