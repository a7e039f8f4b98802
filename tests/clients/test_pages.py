"""The programs of ``docs/server-clients.md`` do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clients.environments import go_binary, node_with, run

PAGE = Path(__file__).parents[2] / "docs" / "server-clients.md"


def block_of(language: str) -> tuple[str, str]:
    """Return the program of a language, and what the page says that it prints."""
    found = re.search(rf"```{language}\n(.*?)```\n\nIt prints `(.*?)`\.", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1], f"{found[2]}\n"


@pytest.mark.timeout(600)  # the first run installs the client
def test_the_program_for_node_prints_what_the_page_says(url: str) -> None:
    node, directory = node_with()
    program, prints = block_of("javascript")
    path = directory / "orders.mjs"
    path.write_text(program)

    assert run([node, path], AWS_ENDPOINT_URL=url) == prints


@pytest.mark.timeout(600)  # Go compiles the SDK
def test_the_program_for_go_prints_what_the_page_says(url: str, tmp_path: Path) -> None:
    program, prints = block_of("go")
    path = tmp_path / "orders.go"
    path.write_text(program)

    assert run([go_binary(path, tmp_path)], AWS_ENDPOINT_URL=url) == prints
