"""The tables of the pages hold what the code says, all of it and nothing else."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from configparser import ConfigParser
from importlib import import_module

import pytest

import melange
import melange.aws_lambda
import melange.deduplication.memory
import melange.errors
import melange.testing
from benchmarks.walk import DICT, TYPED, consumed, worked
from documentation.pages import DOCS, REPOSITORY
from melange.drivers.aws import AwsDriver
from melange.drivers.base import Capabilities
from melange.drivers.memory import InMemoryDriver
from melange.serialization.conversions import CONVERSIONS


@pytest.mark.parametrize("module", [melange, melange.testing], ids=lambda module: module.__name__)
def test_the_api_page_lists_every_public_name(module) -> None:
    names = first_column("api.md", heading=module.__name__)

    assert sorted(names) == sorted(module.__all__)


def test_the_api_page_lists_every_option_of_a_consumer() -> None:
    of_the_consumer = set(inspect.signature(melange.ExchangeMessageConsumer).parameters)
    groups = melange.RetryPolicy, melange.Deduplication, melange.QueueOptions
    of_groups = {(field.name, group.__name__) for group in groups for field in dataclasses.fields(group)}
    section = (DOCS / "api.md").read_text().partition("## Options of a consumer\n")[2].partition("\n## ")[0]

    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\|", section, re.MULTILINE)

    assert {name for name, group in rows if not group} == of_the_consumer - {
        "event_queue_name",
        "topics_to_subscribe",
    }
    assert {row for row in rows if row[1]} == of_groups


def test_what_the_api_page_lists_elsewhere_exists() -> None:
    for path in first_column("api.md", heading="Elsewhere"):
        module, _, name = path.rpartition(".")

        assert name[0].islower() or hasattr(import_module(module), name)
        assert name[0].isupper() or import_module(path)


def test_the_api_page_lists_every_name_of_the_packages_that_it_names() -> None:
    page = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"`([\w.]+)", page))
    for path in first_column("api.md", heading="Elsewhere"):
        if path.rpartition(".")[2].islower():
            module = import_module(path)
            missing = set(getattr(module, "__all__", ())) - listed

            assert missing == set(), path


def test_the_layers_of_the_concepts_page_are_those_that_the_linter_holds() -> None:
    contract = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]
    held = [set(re.findall(r"[\w.]+", layer)) for layer in reversed(contract["layers"])]
    section = (
        (DOCS / "concepts.md").read_text().partition("## Imports between modules")[2].partition("\n## ")[0]
    )
    drawn = [
        set(line.split(" " * 6)[0].replace("/", ".").split())
        for line in re.findall(r"^ {4}(\w.*)$", section, re.MULTILINE)
    ]

    below = iter(held)
    assert all(any(layer <= one for one in below) for layer in drawn)  # each in its layer, in this order
    assert {name for layer in held for name in layer if "." not in name} <= set().union(*drawn)


def test_the_console_page_counts_the_payloads() -> None:
    payloads = (DOCS.parent / "tests" / "browser" / "payloads.txt").read_text(encoding="utf-8").splitlines()

    assert f"The tests put {len(payloads)} payloads" in (DOCS / "console.md").read_text()


def test_the_errors_page_lists_every_error() -> None:
    errors = {
        name
        for module in (melange.errors, melange.aws_lambda)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }

    assert first_column("errors.md") == errors


def test_the_capability_table_holds_what_the_drivers_say() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \|", (DOCS / "testing.md").read_text(), re.MULTILINE)

    memory = dataclasses.asdict(InMemoryDriver().capabilities)
    aws = dataclasses.asdict(AwsDriver(region_name="us-east-1").capabilities)
    assert [name for name, _, _ in rows] == [field.name for field in dataclasses.fields(Capabilities)]
    assert rows == [(name, str(memory[name]), str(aws[name])) for name, _, _ in rows]


def test_the_times_of_the_retry_settings_are_those_of_the_code() -> None:
    table = (DOCS / "delivery-guarantees.md").read_text()
    rows = re.findall(r"^\| `(RetryPolicy\(.*\))` \| ([\d.]+ .*) \| ([\d.]+ .*) \|", table, re.MULTILINE)

    assert len(rows) == 7
    for setting, *times in rows:
        retry = eval(setting, {"RetryPolicy": melange.RetryPolicy, "Backoff": melange.Backoff})
        assert times == [in_words(total_seconds(retry, random)) for random in (0.0, 1.0)], setting


def total_seconds(retry: melange.RetryPolicy, random: float) -> float:
    """Return the time from the first to the last attempt."""
    backoff = retry.backoff
    if isinstance(backoff, melange.Backoff):
        backoff = dataclasses.replace(backoff, random=lambda: random)
    return sum(backoff(attempt) for attempt in range(1, retry.max_attempts))


def in_words(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest:g} s"
    return f"{minutes:.0f} min" + (f" {int(rest)} s" if rest else "")


def test_the_annotations_of_the_events_page_are_those_of_the_code() -> None:
    table = (DOCS / "events.md").read_text().partition("| annotation |")[2].partition("\n\n")[0]

    assert [kind.__name__ for kind in CONVERSIONS if f"`{kind.__name__}`" not in table] == []


@pytest.mark.parametrize("event", [DICT, TYPED], ids=["dict", "typed"])
def test_the_concepts_page_lists_every_file_on_the_path_of_a_message(event) -> None:
    page = (DOCS / "concepts.md").read_text()

    with InMemoryDriver() as driver:
        files = [*consumed(driver, event).files, *worked(InMemoryDriver, event).files]

    assert [file for file in files if f"(../melange/{file})" not in page] == []


def test_the_path_of_a_message_does_not_grow(monkeypatch) -> None:
    # Other tests may have set hashes that are known.
    monkeypatch.setattr(melange.deduplication.memory, "identity_of", hash)
    with InMemoryDriver() as driver:
        walk = consumed(driver, DICT)

    assert walk.functions <= 45
    assert len(walk.files) <= 15


def test_every_page_is_listed_in_the_index_of_its_folder() -> None:
    for page in DOCS.rglob("*.md"):
        index = page.parent / "index.md"

        assert page == index or f"]({page.name})" in index.read_text(), page


def test_the_page_about_the_tests_names_every_environment_of_tox() -> None:
    page = (DOCS / "running-the-tests.md").read_text()
    configuration = ConfigParser(interpolation=None)
    configuration.read(REPOSITORY / "tox.ini")
    environments = configuration["tox"]["env_list"].split(", ")
    environments += [section.partition(":")[2] for section in configuration.sections() if ":" in section]

    assert [name for name in environments if not re.search(rf"\b{name}\b", page)] == []


def first_column(page: str, heading: str | None = None) -> set[str]:
    """Return the names in code type that begin a table row, of one section or of the whole page."""
    text = (DOCS / page).read_text()
    if heading is not None:
        _, _, text = text.partition(f"\n## {heading}\n")
        text = text.partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w.]+)(?:\([\w]*\))?` \|", text, re.MULTILINE))
