"""What the command says, and the codes with which it ends when nothing runs."""

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

SHOP = """
from melange import ExchangeMessageConsumer, Worker
from melange.drivers.memory import InMemoryDriver

stock = ExchangeMessageConsumer("stock", "products", driver=InMemoryDriver(), wait_seconds=0)
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


def test_a_worker_that_stops_cleanly_ends_with_0_and_has_said_what_ran(run) -> None:
    result = run("worker", "shop:stopped")

    assert result.exit_code == 0
    assert f"melange {version('melange')} runs shop:stopped in one process" in result.stderr
    assert "queue stock (InMemoryDriver) for shelves; concurrency 3, grace 7 s" in result.stderr


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


def test_a_failure_inside_the_module_is_shown_from_where_the_module_begins(run, write) -> None:
    write("broken.py", "import nowhere_to_be_found\n")

    result = run("worker", "broken:stock")

    assert result.exit_code == 2
    assert 'broken.py", line 1, in <module>\n    import nowhere_to_be_found\n' in result.stderr
    assert "importlib" not in result.stderr


def test_a_broker_out_of_reach_at_the_start_ends_with_1(run, write) -> None:
    write(
        "away.py",
        "from melange import DriverConnectionError\nraise DriverConnectionError('the broker is away') from OSError()",
    )

    result = run("worker", "away:stock")

    assert result.exit_code == 1
    assert "Error: the broker is away" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_click_the_command_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['click'] = None; from melange.cli.__main__ import main; sys.exit(main())"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "the melange command needs click: pip install 'melange[cli]'\n"


def test_the_guide_is_printed_as_the_package_has_it(run) -> None:
    result = run("guide")

    assert (result.exit_code, result.stdout) == (0, files("melange").joinpath("guide.md").read_text())
