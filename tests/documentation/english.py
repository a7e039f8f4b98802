"""The house's English as far as a program can check it: words to avoid, and long sentences.

Checked are the pages, the change log, and in ``melange/`` and ``examples/`` docstrings, comments and texts of
errors and logs. Code in pages is not checked, nor are quotations in backticks.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_WORDS = 30
"""Of one sentence on a page. The aim is 25; a list of names may need more."""


@dataclass(frozen=True)
class Rule:
    """A pattern to avoid, what to write, and why."""

    pattern: str
    better: str
    reason: str

    def found_in(self, text: str) -> Iterator[str]:
        for match in re.finditer(rf"\b(?:{self.pattern})\b", text, re.IGNORECASE):
            yield match[0]


PRIVATE = "readers search for the standard term"
PERSON = "code is not a person"
INVERTED = "a plain negation is easier to read"
RIDDLE = "it is an idiom that not every reader knows"
FILLER = "it says nothing"
STRANGER = "the package of this name on the package index is another project"

RULES = [
    Rule(r"in hand", "in flight", PRIVATE),
    Rule(r"set(?:s|ting)? (?:\w+ )?aside", "dead-letter, move to the dead-letter queue", PRIVATE),
    Rule(r"(?:is|are|was|were|goes|be|been|being) away", "is unavailable", PRIVATE),
    Rule(
        r"in (?:good|an orderly) order|wind(?:s|ing)? down|orderly (?:stop|end)", "graceful shutdown", PRIVATE
    ),
    Rule(r"oversle(?:ep|pt)\w*|sle(?:ep|pt)s? over", "the lease expired", PRIVATE),
    Rule(r"stands? by", "is on standby", PRIVATE),
    Rule(r"kept from others|keep from others", "invisible to others", PRIVATE),
    Rule(r"rooms?", "capacity, free slots; module, package", PRIVATE),
    Rule(r"wish(?:es|ed)?", "specification, option", PRIVATE),
    Rule(r"calls? forth|without an end", "an infinite loop", PRIVATE),
    Rule(r"given back|gives? back|giving back", "release", PRIVATE),
    Rule(r"let(?:s|ting)? go of", "release", PRIVATE),
    Rule(r"pushe[sd] out", "extended", PRIVATE),
    Rule(r"(?:is|are|was|were) told", "receives, is called with", PERSON),
    Rule(r"hears?|heard", "receives", PERSON),
    Rule(r"none of (?:its|their|our) business", "not supported", PERSON),
    Rule(r"knows? (?:no|nothing|none|neither|nobody)", "does not know, has no, is not supported", PERSON),
    Rule(r"who(?:ever|se|m)?", "name the thing: the caller, the worker, which", PERSON),
    Rule(
        r"(?:some|any|every|no)(?:body| one)|(?:some|any|every)one",
        "name the thing: a process, no caller",
        PERSON,
    ),
    Rule(r"(?<!there )(?:is|are|was|were|be) no(?! longer)", "is not a, has no", INVERTED),
    Rule(r"nothing but", "only", INVERTED),
    Rule(r"neither of which", "split the sentence", INVERTED),
    Rule(r"returns? (?:whether|if)", "return True if", "it says what the value is"),
    Rule(r"returns? how (?:many|much|long)", "return the number of", "it says what the value is"),
    Rule(r"for ever", "forever, without a limit", RIDDLE),
    Rule(r"anew", "again", RIDDLE),
    Rule(r"dearer|dearest", "slower, more expensive", RIDDLE),
    Rule(r"mend(?:s|ed|ing)?", "repair, fix", RIDDLE),
    Rule(r"s[ai]ts? out", "wait until it is over", RIDDLE),
    Rule(r"without a word", "silently", RIDDLE),
    Rule(r"by a slip|a slip", "a mistake", RIDDLE),
    Rule(r"fares?|fared", "happens to", RIDDLE),
    Rule(r"in vain", "without effect", RIDDLE),
    Rule(r"at odds", "contradicts", RIDDLE),
    Rule(r"pip install '?melange", "pip install '.[extra]' in a checkout of melange", STRANGER),
    Rule(r"of course|obviously|simply", "leave it out", FILLER),
]


_BEGINS_A_PARAGRAPH = re.compile(r"\s*(?:[-*] |\d+\. |\||#|<!--)")


class Finding(NamedTuple):
    """A place where a rule is broken."""

    path: Path
    line: int
    complaint: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.complaint}"


class Text(NamedTuple):
    """A piece of prose and the line where it begins."""

    line: int
    text: str


def check(path: Path) -> list[Finding]:
    """Return what is wrong in the prose of a page or a Python file."""
    source = path.read_text()
    is_page = path.suffix == ".md"
    findings = []
    for line, text in paragraphs(source) if is_page else prose_of_python(source):
        plain = _without_quotations(text)
        for rule in RULES:
            findings += [
                Finding(path, line, f"{found!r}: write {rule.better!r}, because {rule.reason}")
                for found in rule.found_in(plain)
            ]
        if is_page and not text.lstrip().startswith("|"):
            findings += [
                Finding(path, line, f"a sentence of {words} words, at most {MAX_WORDS}: {sentence[:60]}...")
                for sentence in re.split(r"(?<=[.!?:;])\s+", plain)
                if (words := len(sentence.split())) > MAX_WORDS
            ]
    return findings


def paragraphs(page: str) -> Iterator[Text]:
    """Yield paragraphs, headings, list items and table rows of a page, without its code."""
    begun, gathered, fence = 0, list[str](), ""
    for number, line in enumerate([*page.split("\n"), ""], start=1):
        if fence:
            fence = "" if line == fence else fence
            continue
        opening = re.match("```+", line)
        fence = opening[0] if opening else ""
        if gathered and (opening or not line.strip() or _BEGINS_A_PARAGRAPH.match(line)):
            yield Text(begun, " ".join(gathered))
            gathered = []
        is_code = opening or (line.startswith("    ") and not gathered)
        if line.strip() and not is_code:
            begun = begun if gathered else number
            gathered.append(line.strip())


def prose_of_python(source: str) -> Iterator[Text]:
    """Yield the docstrings, comments and longer texts of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 2:
            yield Text(node.lineno, node.value)


def _without_quotations(text: str) -> str:
    """Leave out code and the addresses of links; keep the words of links."""
    text = re.sub(r"``.+?``|`[^`]+`", "CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)
