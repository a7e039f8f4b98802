"""`melange worker` before it works: signals while the program is imported, and starts that fail."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from melange.signals import SAME_REQUEST_SECONDS
from waiting import eventually

MELANGE = (sys.executable, "-m", "melange.cli")
PROCESS_ONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
PAGES = sorted((Path(__file__).parent.parent.parent / "docs").glob("*.md"))
UNITS = {
    page.stem: unit
    for page in PAGES
    for unit in re.findall(r"^```ini\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    if "[Service]" in unit
}

SLOW_TO_IMPORT = """
import time
from pathlib import Path
Path("importing").touch()
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        time.sleep(0.1)
    except BaseException:  # as programs do around whatever may fail
        pass
"""

IN_MEMORY = """
import time
from pathlib import Path
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.memory import InMemoryDriver

driver = InMemoryDriver()
consumer = ExchangeMessageConsumer("stock", "products", driver=driver)

@consumer.listener("ProductAdded")
def hang(event):
    Path("begun").touch()
    time.sleep(60)

ExchangeMessagePublisher("products", driver).publish({"event_type_name": "ProductAdded"})

idle = ExchangeMessageConsumer("idle", driver=driver)
idle.listener("ProductAdded")(print)

class SlowToEnd:
    def __del__(self, sleep=time.sleep):
        sleep(0.2)

slow = SlowToEnd()

if __name__ == "__main__":
    raise SystemExit(consumer.run())
"""

ON_AWS = """
import os
from melange import ExchangeMessageConsumer
from melange.drivers.aws import AwsDriver

consumer = ExchangeMessageConsumer(os.environ["QUEUE"], driver=AwsDriver())
consumer.listener("Work")(print)
"""

ON_A_DATABASE = """
from sqlalchemy import create_engine
create_engine("postgresql+psycopg://127.0.0.1:1/shop?connect_timeout=5").connect()
"""


def can_be_process_one() -> bool:
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run([*PROCESS_ONE, "true"], check=False, capture_output=True).returncode
    )


needs_process_ids_of_its_own = pytest.mark.skipif(
    not can_be_process_one(), reason="this machine does not let us make a namespace of process ids"
)


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``melange worker`` on a program; what is left at the end is killed."""
    processes: list[subprocess.Popen[str]] = []
    (tmp_path / "slow.py").write_text(SLOW_TO_IMPORT)
    (tmp_path / "stock.py").write_text(IN_MEMORY)
    (tmp_path / "on_aws.py").write_text(ON_AWS)
    (tmp_path / "on_a_database.py").write_text(ON_A_DATABASE)

    def start_worker(
        *arguments: str,
        program: tuple[str, ...] = (*MELANGE, "worker"),
        before: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, *program, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has it ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        processes.append(process)
        return process

    yield start_worker
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("command", [("worker",), ("outbox", "relay")], ids=" ".join)
def test_a_signal_while_the_program_is_imported_ends_it_with_0(start, tmp_path, number, command) -> None:
    worker = start("slow:found", program=(*MELANGE, *command))
    eventually((tmp_path / "importing").exists)

    worker.send_signal(number)
    _, log = worker.communicate(timeout=30)

    assert worker.returncode == 0
    assert "stopped before the work began" in log
    assert "Traceback" not in log


@needs_process_ids_of_its_own
def test_as_process_1_it_ends_by_a_signal_while_the_program_is_imported(start, tmp_path) -> None:
    worker = start("slow:consumer", before=PROCESS_ONE)
    eventually((tmp_path / "importing").exists)

    os.kill(process_one_of(worker), signal.SIGTERM)

    worker.communicate(timeout=30)
    assert worker.returncode == 0


@needs_process_ids_of_its_own
@pytest.mark.parametrize(
    ("program", "argument"),
    [((*MELANGE, "worker"), "stock:consumer"), ((sys.executable,), "stock.py")],
    ids=["command", "program"],
)
def test_as_process_1_it_ends_at_once_by_a_second_signal(start, tmp_path, program, argument) -> None:
    worker = start(argument, program=program, before=PROCESS_ONE)
    eventually((tmp_path / "begun").exists)
    process_id = process_one_of(worker)

    os.kill(process_id, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(2 * SAME_REQUEST_SECONDS)
    os.kill(process_id, signal.SIGTERM)

    worker.communicate(timeout=15)  # less than the grace, which is 25 s
    assert worker.returncode == 128 + signal.SIGTERM


def test_signals_are_handled_before_the_program_is_imported(start, tmp_path) -> None:
    (tmp_path / "looks.py").write_text(
        "import signal\nassert callable(signal.getsignal(signal.SIGTERM))\nconsumer = None\n"
    )

    _, log = start("looks:consumer").communicate(timeout=30)

    assert "looks:consumer is of type NoneType" in log


def process_one_of(unshare: subprocess.Popen[str]) -> int:
    """Return the id, outside of its namespace, of the process that is number 1 in there."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    return int(eventually(children.read_text).split()[0])


def parsed(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment] # names are written in both cases
    parser.read_string(unit)
    return parser


class TestTheDocumentedUnits:
    """What systemd does with the units of the pages, by its manual, systemd.service(5)."""

    @pytest.mark.parametrize("text", UNITS.values(), ids=UNITS)
    def test_their_commands_exist(self, text) -> None:
        program, *arguments = shlex.split(parsed(text)["Service"]["ExecStart"])

        assert Path(program).name == "melange"
        helped = subprocess.run([*MELANGE, *arguments, "--help"], check=False, capture_output=True)
        assert helped.returncode == 0

    @pytest.mark.parametrize("text", UNITS.values(), ids=UNITS)
    def test_restarts_are_paused_and_never_given_up(self, text) -> None:
        unit = parsed(text)

        assert unit["Unit"]["StartLimitIntervalSec"] == "0"  # by default, five starts in ten seconds
        assert float(unit["Service"]["RestartSec"]) >= 1

    @pytest.mark.parametrize("text", UNITS.values(), ids=UNITS)
    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
    def test_systemd_finds_no_fault_in_them(self, tmp_path, text) -> None:
        path = tmp_path / "stock.service"
        path.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))

        checked = subprocess.run(
            ["systemd-analyze", "verify", str(path)], check=False, capture_output=True, text=True
        )

        assert [line for line in checked.stderr.splitlines() if "stock.service" in line] == []

    @pytest.fixture
    def unit(self) -> configparser.ConfigParser:
        return parsed(UNITS["worker"])

    def restarts_after(self, unit: configparser.ConfigParser, code: int) -> bool:
        service = unit["Service"]
        assert service["Restart"] == "on-failure"  # codes but 0, signals but those that ask to stop
        return code != 0 and str(code) not in service["RestartPreventExitStatus"].split()

    def test_credentials_that_come_late_do_not_keep_it_down(
        self, unit, start, tmp_path, sns_sqs_server
    ) -> None:
        credentials = tmp_path / "credentials"
        environment = {
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
            "AWS_ENDPOINT_URL": sns_sqs_server,
            "QUEUE": tmp_path.name,
        }
        first = start("on_aws:consumer", **environment)
        _, log = first.communicate(timeout=60)
        assert self.restarts_after(unit, first.returncode), log

        credentials.write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
        second = start("on_aws:consumer", **environment)

        assert second.stderr is not None
        assert any("working on queue" in line for line in second.stderr)

    @pytest.mark.parametrize("target", ["on_aws:consumer", "on_a_database:consumer"])
    def test_what_is_unavailable_at_the_start_is_tried_again(self, unit, start, target) -> None:
        with socket.socket() as refusing:
            refusing.bind(("127.0.0.1", 0))  # and does not listen
            port = refusing.getsockname()[1]

            worker = start(target, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", QUEUE="stock")
            _, log = worker.communicate(timeout=90)

        assert self.restarts_after(unit, worker.returncode), log

    @pytest.mark.parametrize(
        "arguments", [["stock:consumers"], ["stok:consumer"], ["stock:consumer", "-p", "2"]]
    )
    def test_wrong_usage_is_not_tried_again(self, unit, start, arguments) -> None:
        worker = start(*arguments)
        worker.communicate(timeout=30)

        assert not self.restarts_after(unit, worker.returncode)


def test_without_click_the_command_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['click'] = None; from melange.cli.__main__ import main; sys.exit(main())"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "the melange command needs click: pip install '.[cli]' in a checkout of melange\n"


def test_repetitions_of_a_signal_do_not_change_the_exit_code_however_far_it_has_come(start) -> None:
    worker = start("stock:idle")
    assert any("working on queue" in line for line in worker.stderr)

    last = time.monotonic() + SAME_REQUEST_SECONDS / 2
    while worker.poll() is None and time.monotonic() < last:
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.001)

    assert worker.wait(60) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["guide"]])
def test_a_full_disk_under_the_output_is_one_line(arguments) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*MELANGE, *arguments], check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert ended.stderr == "melange cannot write: No space left on device\n"
    assert ended.returncode == 1


def test_an_error_that_cannot_be_written_does_not_change_the_exit_code(tmp_path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*MELANGE, "worker", "nowhere:x"], check=False, stderr=full, cwd=tmp_path)

    assert ended.returncode == 2
