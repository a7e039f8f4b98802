"""What MkDocs does not do by itself: pages made from the code, and syntax that a plain Git host shows well too.

- The reference pages, one for each module with public names, from ``docs/api.md`` and the docstrings.
- The change log and the guide, which stand outside of ``docs/``, and the source files that pages link to.
- Tabs, written as bold headings between two HTML comments.
- Mermaid, taken from the package mermaidx. A diagram with a syntax error stops the build.
- ``llms.txt``, the guide as plain text for coding assistants.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from pathlib import Path

import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parent.parent
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "melange/guide.md": "guide.md",
}
"""Where the site has the pages that stand outside of docs/."""

_API_SECTION = re.compile(r"^## (melange[\w.]*|Elsewhere)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_API_ROW = re.compile(r"^\| (`[\w.]+(?:\([\w]*\))?`(?:, `[\w.]+`)*) \|", re.MULTILINE)
_NAME = re.compile(r"`([\w.]+)(?:\(\w*\))?`")
_FENCE = re.compile(r"^(```+)mermaid\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_LINK_OUTSIDE = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?(?=\))")
_MERMAID_TAG = re.compile(r'<script src="[^"]*/mermaid\.min\.js"></script>')
_TABS = re.compile(r"^<!-- tabs -->\n(.*?)^<!-- end of tabs -->$", re.MULTILINE | re.DOTALL)
_TAB = re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made from the code, or stands outside of docs/."""
    for path, address in MOVED.items():
        if files.get_file_from_path(address) is None:
            text = _as_if_in_docs(REPOSITORY / path)
            files.append(File.generated(config, address, content=text))
    for address, text in _reference_pages().items():
        files.append(File.generated(config, address, content=text))
    for path in sorted(_linked_sources(files)):
        files.append(File.generated(config, _source_address(path), content=_source_page(path)))
    guide = (REPOSITORY / "melange" / "guide.md").read_text()
    files.append(File.generated(config, "llms.txt", content=guide))
    files.append(
        File.generated(config, "assets/javascripts/mermaid.min.js", abs_src_path=str(_mermaid_script()))
    )
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn what a plain Git host shows into what Material shows."""
    address = page.file.src_uri
    for _, diagram in _FENCE.findall(markdown):
        _check_diagram(diagram, address)
    if address == "api.md":
        markdown = _with_links_to_the_reference(markdown)
    markdown = _LINK_OUTSIDE.sub(lambda link: _link_inside(link[1], link[2] or "", address), markdown)
    return _TABS.sub(lambda tabs: _material_tabs(tabs[1]), markdown)


def on_post_page(output: str, **_: object) -> str:
    """Take the script off pages without a diagram: it is large."""
    return output if 'class="mermaid"' in output else _MERMAID_TAG.sub("", output)


def _as_if_in_docs(path: Path) -> str:
    """Return a page's text with its relative links as they are from docs/."""
    folder = path.parent.relative_to(REPOSITORY).as_posix()

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(posixpath.join(folder, link[0]), "docs")

    return re.sub(r"(?<=\]\()(?!https?:|#)[^)#\s]+", moved, path.read_text())


def _reference_pages() -> dict[str, str]:
    """Return the reference pages by their addresses: all public names of a module, or one module in full.

    A name of ``melange`` is on the page of ``melange`` alone, also if the module that defines it has a page.
    """
    pages = {}
    sections = dict(_API_SECTION.findall((REPOSITORY / "docs" / "api.md").read_text()))
    elsewhere = sections.pop("Elsewhere")
    for section, rows in sections.items():
        blocks = "\n".join(f"::: {section}.{name}\n" for name in _names(rows))
        pages[_reference_address(section)] = f"# {section}\n\n{blocks}"
    names_of_melange = "|".join(_names(sections["melange"]))
    options = f'    options:\n      filters: ["!^_", "!^({names_of_melange})$"]\n'
    for path in _names(elsewhere):
        pages[_reference_address(path)] = f"# {path}\n\n::: {path}\n{options}"
    return pages


def _names(rows: str) -> list[str]:
    return [name for cell in _API_ROW.findall(rows) for name in _NAME.findall(cell)]


def _reference_address(path: str) -> str:
    return f"reference/{path}.md"


def _with_links_to_the_reference(markdown: str) -> str:
    def linked(section: re.Match[str]) -> str:
        module = "" if section[1] == "Elsewhere" else f"{section[1]}."

        def cell(row: re.Match[str]) -> str:
            return "| " + _NAME.sub(lambda name: f"[{name[0]}][{module}{name[1]}]", row[1]) + " |"

        return f"## {section[1]}\n" + _API_ROW.sub(cell, section[2])

    return _API_SECTION.sub(linked, markdown)


def _linked_sources(files: Files) -> set[str]:
    """Return the paths in the repository, outside of docs/, that pages link to."""
    linked = set()
    for file in files.documentation_pages():
        for link, _ in _LINK_OUTSIDE.findall(file.content_string):
            path = _in_repository(link, file.src_uri)
            if not path.startswith("docs/") and path not in MOVED:
                linked.add(path)
    return linked


def _in_repository(link: str, address: str) -> str:
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(address), link))


def _link_inside(link: str, anchor: str, address: str) -> str:
    path = _in_repository(link, address)
    if path.startswith("docs/"):
        return link + anchor
    inside = MOVED.get(path) or _source_address(path)
    return posixpath.relpath(inside, posixpath.dirname(address) or ".") + anchor


def _source_address(path: str) -> str:
    return f"source/{path}.md"


def _source_page(path: str) -> str:
    place = REPOSITORY / path
    if not place.exists():
        raise PluginError(f"a page links to {path}, which does not exist")
    sources = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    blocks = [
        f"## {source.relative_to(REPOSITORY)}\n\n````{source.suffix[1:]}\n{source.read_text()}````\n"
        for source in sources
    ]
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n" + "\n".join(blocks)


def _material_tabs(text: str) -> str:
    _, *parts = _TAB.split(text)
    tabs = []
    for title, content in zip(parts[::2], parts[1::2], strict=True):
        lines = "\n".join(f"    {line}" if line else "" for line in content.strip("\n").split("\n"))
        tabs.append(f'=== "{title}"\n\n{lines}\n')
    return "\n".join(tabs)


def _mermaid_script() -> Path:
    package = importlib.util.find_spec("mermaidx")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "assets" / "mermaid.js"


def _check_diagram(diagram: str, address: str) -> None:
    try:
        mermaidx.render(diagram)
    except RuntimeError as error:
        raise PluginError(f"{address}: {error}\n{diagram}") from error
