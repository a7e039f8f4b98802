"""The examples, as programs: they print what the pages show, on both drivers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from services.servers import free_port
from waiting import eventually

REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLES = REPOSITORY / "examples"
OUTPUT = re.compile(r"^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
(SHOWN_IN_MEMORY,) = OUTPUT.findall((REPOSITORY / "README.md").read_text())
(SHOWN_ON_AWS,) = OUTPUT.findall((REPOSITORY / "docs" / "local-aws.md").read_text())
SHOP_PAGE = (REPOSITORY / "docs" / "shop.md").read_text()
(A_DAY_IN_THE_SHOP,) = OUTPUT.findall(SHOP_PAGE)
(AS_PROCESSES,) = re.findall(r"^```sh\n(melange worker .*?)^```$", SHOP_PAGE, re.MULTILINE | re.DOTALL)
PYTHON = shlex.quote(sys.executable)
OUR_PROGRAMS = f"""
melange() {{ exec {PYTHON} -m melange.cli "$@"; }}
python() {{ {PYTHON} "$@"; }}
"""
END_WHAT_IS_LEFT = """
code=$?
left=$(jobs -p)
kill $left
for process in $left; do wait $process || code=$?; done
exit $code
"""


def test_in_memory_the_example_prints_what_the_readme_shows() -> None:
    printed = run_example()

    assert without_ids(printed) == without_ids(SHOWN_IN_MEMORY)


def test_on_sns_and_sqs_the_example_prints_the_same_but_for_ids_and_order(sns_sqs_server) -> None:
    printed = run_example("aws", AWS_ENDPOINT_URL=sns_sqs_server)

    assert sorted(events(printed)) == sorted(events(SHOWN_ON_AWS))
    assert deliveries(printed) == deliveries(SHOWN_ON_AWS)


def test_the_pages_show_the_same_for_both_drivers_but_for_ids() -> None:
    assert without_ids(SHOWN_ON_AWS).replace("'aws'", "'memory'") == without_ids(SHOWN_IN_MEMORY)


def test_in_memory_a_day_in_the_shop_goes_as_its_page_shows() -> None:
    printed = run("-m", "shop")

    assert story(printed) == story(A_DAY_IN_THE_SHOP)


def test_on_sns_and_sqs_a_day_in_the_shop_goes_the_same_way(sns_sqs_server) -> None:
    printed = run("-m", "shop", "--driver", "aws", AWS_ENDPOINT_URL=sns_sqs_server)

    assert story(printed) == story(A_DAY_IN_THE_SHOP)


def test_a_day_in_the_shop_goes_the_same_way_in_the_processes_that_its_page_names(
    sns_sqs_server, tmp_path
) -> None:
    printed = run_in_shell(AS_PROCESSES, tmp_path, AWS_ENDPOINT_URL=sns_sqs_server, PYTHONPATH=str(EXAMPLES))

    assert story(printed) == story(A_DAY_IN_THE_SHOP)


def test_the_shop_passes_its_own_tests() -> None:
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "shop")

    assert re.search(r"^\d+ passed in", printed, re.MULTILINE)


def test_three_services_pass_their_own_tests(tmp_path) -> None:
    with_pytest = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "three_services")
    in_django = subprocess.run(
        [sys.executable, "-m", "three_services.payments.manage", "test", "three_services.payments"],
        cwd=EXAMPLES,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "PAYMENTS_DIRECTORY": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert re.search(r"^\d+ passed in", with_pytest, re.MULTILINE)
    assert (in_django.returncode, "OK" in in_django.stderr.splitlines()) == (0, True), in_django.stderr


@pytest.mark.timeout(400)
def test_an_order_goes_through_three_services_in_processes_of_their_own() -> None:
    services = subprocess.run(
        [sys.executable, "-m", "three_services"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )

    assert services.returncode == 0, services.stdout + services.stderr
    printed = services.stdout.splitlines()
    assert [line for line in printed if "order" in line or "it is" in line][-2:] == printed_on_page()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("orders.topology:declare", "orders"),
        ("payments.consumers:make_consumer", "payments"),  # its project is set up before
        ("shipping.function:make_handler", "shipping"),
    ],
)
def test_each_of_three_services_says_what_it_needs_at_the_broker(target, name) -> None:
    command = ["-m", "melange.cli", "topology", "export", "--format", "json", f"three_services.{target}"]

    printed = run(*command, DJANGO_SETTINGS_MODULE="three_services.payments.settings")

    assert name in {queue["name"] for queue in json.loads(printed)["queues"]}


def printed_on_page() -> list[str]:
    (printed,) = OUTPUT.findall((REPOSITORY / "docs" / "three-services.md").read_text())
    return printed.splitlines()[-2:]


def run_example(*arguments: str, **environment: str) -> str:
    return run("products.py", *arguments, **environment)


def test_the_example_of_telemetry_reports_to_prometheus() -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "telemetry.py"],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONUNBUFFERED": "", "METRICS_PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    ) as example:
        assert example.stdout is not None
        printed = sorted(example.stdout.readline() for _ in range(2))  # by two threads

        sent = eventually(lambda: metric(port, "melange_listener_duration_seconds_count"))
        example.send_signal(signal.SIGTERM)
        code = example.wait(30)

    assert printed == ["Coolers added\n", "Umbrellas added\n"]
    assert sent == 2
    assert code == 0


def metric(port: int, name: str) -> float | None:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        values = re.findall(rf"^{name}{{.*}} (\S+)$", page.read().decode(), re.MULTILINE)
    return float(values[0]) if values and float(values[0]) == 2 else None


def run(*arguments: str, cwd: Path = EXAMPLES, **environment: str) -> str:
    example = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},  # unbuffered, lines of two threads mix
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (example.returncode, example.stderr) == (0, ""), example.stdout
    return example.stdout


def run_in_shell(commands: str, directory: Path, **environment: str) -> str:
    """Run the commands of a page, have what they started end in good order, and return what all of it printed."""
    with subprocess.Popen(
        ["bash", "-c", OUR_PROGRAMS + commands + END_WHAT_IS_LEFT],
        cwd=directory,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that nothing outlives the test
    ) as shell:
        try:
            printed, logs = shell.communicate(timeout=90)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, logs
    return printed


def story(output: str) -> list[str]:
    """Return what was told; two services that work side by side may speak at the same moment."""
    return sorted(output.splitlines())


def without_ids(output: str) -> str:
    return re.sub(r"message \w+", "message ID", output)


def events(output: str) -> list[str]:
    """Return the lines about events; how many deliveries a poll brings is up to the broker."""
    return [line for line in without_ids(output).splitlines() if not line.startswith("settled")]


def deliveries(output: str) -> int:
    """Return how many deliveries were settled in all."""
    return sum(map(int, re.findall(r"^settled (\d+) ", output, re.MULTILINE)))
