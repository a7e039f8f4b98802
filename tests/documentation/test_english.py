"""Pages and code are written in plain English, with the standard terms."""

from __future__ import annotations

from pathlib import Path

import pytest

from documentation.english import check
from documentation.pages import PAGES, REPOSITORY

CHECKED = [
    *PAGES,
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "examples" / "README.md",
    *sorted((REPOSITORY / "melange").rglob("*.py")),
    *sorted((REPOSITORY / "examples").rglob("*.py")),
]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", CHECKED, ids=name_of)
def test_a_file_is_written_in_plain_english(path) -> None:
    assert [str(finding) for finding in check(path)] == []


class TestTheLinter:
    @pytest.mark.parametrize(
        "text",
        [
            "# A comment about what is set aside.\n",
            '"""What is in hand."""\n',
            'raise ValueError("the broker is away, try again")\n',
            'print(f"{1} messages are\\n set aside")\n',
            "print(\"it needs click: pip install 'melange[cli]'\")\n",
        ],
    )
    def test_it_finds_words_in_comments_docstrings_and_texts(self, text, tmp_path) -> None:
        path = tmp_path / "module.py"
        path.write_text(text)

        assert len(check(path)) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "The rest is\nset aside.\n",
            "| a table | knows nothing |\n",
            "- a list\n- in which whoever reads\n",
            "word " * 31 + "\n",
        ],
    )
    def test_it_finds_words_and_long_sentences_on_pages(self, text, tmp_path) -> None:
        path = tmp_path / "page.md"
        path.write_text(text)

        assert len(check(path)) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "```text\nset aside\n```\n",
            "A header `is_away` in code, and a [link](whoever.md).\n",
            "There is no order. It is no longer there.\n",
        ],
    )
    def test_it_leaves_code_and_plain_negations_alone(self, text, tmp_path) -> None:
        path = tmp_path / "page.md"
        path.write_text(text)

        assert check(path) == []
