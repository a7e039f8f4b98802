"""The pytest plugin: the fixture, its marker and its seed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

TEST = """
import pytest
from melange import ExchangeMessagePublisher

def test_with_the_fixture(melange):
    ExchangeMessagePublisher("orders").publish({}, "OrderPlaced")
    assert melange.published("OrderPlaced")

@pytest.mark.melange(shuffle=True)
def test_with_disorder(melange):
    print("seed", melange.seed)
    assert not melange.driver.capabilities.fifo
"""


def test_the_fixture_is_a_harness_and_a_failing_seed_is_printed(pytester) -> None:
    pytester.makepyfile(TEST)

    result = pytester.runpytest_subprocess("-q", "--strict-markers", "--melange-seed=7")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*seed 7*"])
    result.stdout.fnmatch_lines(["repeat this disorder with: pytest --melange-seed=7"])


def test_without_disorder_no_seed_is_printed(pytester) -> None:
    pytester.makepyfile("def test_fails(melange):\n    assert melange.published('OrderPlaced')\n")

    result = pytester.runpytest_subprocess("-q")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*AssertionError: OrderPlaced was not published*", "*nothing was published*"]
    )
    result.stdout.no_fnmatch_line("*melange-seed*")


def test_a_marker_without_names_is_an_error(pytester) -> None:
    pytester.makepyfile("import pytest\n\n@pytest.mark.melange(0.05)\ndef test_any(melange): ...\n")

    result = pytester.runpytest_subprocess("-q")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*name what the marker asks for*"])


def test_runs_without_a_seed_have_different_ones(pytester) -> None:
    pytester.makepyfile(TEST)

    seeds = [
        next(line for line in pytester.runpytest_subprocess("-q").outlines if line.startswith("seed"))
        for _ in range(2)
    ]

    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("modules", ["melange", "marshmallow", "asyncio.runners"])
def test_unused_the_plugin_imports_nothing(modules) -> None:
    program = f"import sys, pytest; before = set(sys.modules); import pytest_melange; assert {modules!r} not in set(sys.modules) - before"

    subprocess.run([sys.executable, "-c", program], check=True)


TEST_OF_THE_SERVER = """
import boto3

def queues(server):
    sqs = boto3.client(
        "sqs", endpoint_url=server.url, region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t"
    )
    found = sqs.list_queues().get("QueueUrls", [])
    sqs.create_queue(QueueName="orders")
    server.faults.add("error", operation="SendMessage")
    return found

def test_first(melange_server):
    assert queues(melange_server) == []

def test_second(melange_server):
    assert melange_server.faults.all() == []
    assert queues(melange_server) == []
"""


def test_the_fixture_of_a_server_is_empty_for_each_test(pytester) -> None:
    pytester.makepyfile(TEST_OF_THE_SERVER)

    result = pytester.runpytest_subprocess("-q")

    result.assert_outcomes(passed=2)
