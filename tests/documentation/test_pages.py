"""Every code block of the README and of docs/ does what the page says."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from documentation.pages import PAGES, page_name, run_page
from melange import DriverManager, EventSerializer, MessagingDriver

# Pages whose blocks talk to SNS and SQS.
AWS_PAGES = {"docs/aws.md", "docs/topology.md"}

SKIPPED_BLOCKS = {"docs/aws.md": 1}
"""How many blocks of a page cannot run here, because they need an AWS account."""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch, tmp_path):
    """Give each page what a new process has: no driver, no registered events, an empty directory."""
    environment = dict(os.environ)
    monkeypatch.setattr(DriverManager, "_instance", None)
    monkeypatch.setattr(EventSerializer, "_instance", None)
    monkeypatch.setattr(MessagingDriver, "serializer", EventSerializer.instance())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.timeout(400)  # a page may start dozens of processes
@pytest.mark.parametrize("page", [page for page in PAGES if page_name(page) not in AWS_PAGES], ids=page_name)
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, tmp_path) -> None:
    assert run_page(page, tmp_path) == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [page for page in PAGES if page_name(page) in AWS_PAGES], ids=page_name)
def test_the_blocks_of_a_page_on_aws_run_against_a_server(
    page, tmp_path, sns_sqs_server, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", sns_sqs_server)

    skipped = run_page(page, tmp_path)

    assert len(skipped) == SKIPPED_BLOCKS.get(page_name(page), 0), skipped


class TestTheRunner:
    """A page that says what is not so must fail."""

    @pytest.mark.parametrize(
        "blocks",
        [
            "```python\nprint('one')\n```\n```text\ntwo\n```\n",
            "```text\nnever printed\n```\n",
            "```python\n# a.py\nprint('one')\n```\n```console\n$ python a.py\ntwo\n```\n",
            "```python\n# a.py\nraise SystemExit(1)\n```\n```console\n$ python a.py\n```\n",
            "```python\n# a.py\nraise SystemExit(1)\n```\n```console\n$ python a.py; echo $?\n0\n```\n",
            "```python\n# test_a.py\ndef test_a(): assert 0\n```\n```console\n$ pytest -q test_a.py\n...\n```\n",
            "```python\n# a.py\nprint('one')\nwhile True: pass\n```\n```console\n$ python a.py\ntwo\n^C\n```\n",
        ],
    )
    def test_other_output_than_the_page_says_is_found(self, blocks, tmp_path) -> None:
        page = Path(tmp_path, "page.md")
        page.write_text(blocks)

        with pytest.raises(AssertionError, match="did not evaluate as expected"):
            run_page(page, tmp_path)

    @pytest.mark.parametrize(
        ("lines", "is_quoted"),
        [
            ("from melange import EventMessage\n", True),
            (
                "from dataclasses import dataclass\n...\n@dataclass(frozen=True)\nclass ProductAdded(EventMessage):\n",
                True,
            ),
            ("class ProductAdded(EventMessage):\n    ...\n    name: str\n", True),
            ("class ProductAdded:\n", False),
            ("from melange import\n", False),
            ("class ProductAdded(EventMessage):\n    name: str\n", False),
            ("class OrderPlaced(EventMessage):\n...\nclass ProductAdded(EventMessage):\n", False),
        ],
    )
    def test_what_is_quoted_from_an_example_must_stand_there(self, lines, is_quoted, tmp_path) -> None:
        page = Path(tmp_path, "page.md")
        page.write_text(f"```python\n# examples/shop/contract.py\n{lines}```\n")

        with (
            nullcontext()
            if is_quoted
            else pytest.raises(AssertionError, match=r"not in examples/shop/contract\.py")
        ):
            run_page(page, tmp_path)

    def test_what_a_block_raises_passes(self, tmp_path) -> None:
        page = Path(tmp_path, "page.md")
        page.write_text("```python\nraise KeyError('oops')\n```\n")

        with pytest.raises(KeyError, match="oops"):
            run_page(page, tmp_path)

    def test_matching_output_of_a_program_that_is_interrupted_passes(self, tmp_path) -> None:
        page = Path(tmp_path, "page.md")
        page.write_text(
            "```python\n# a.py\nprint('one')\nwhile True: pass\n```\n```console\n$ python a.py\no...e\n^C\n```\n"
        )

        assert run_page(page, tmp_path) == []
