"""The prefix of a driver's names, for several environments in one account."""

from __future__ import annotations

import re
from dataclasses import dataclass

from melange.errors import ConfigurationError

_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,40}")
_ADDRESSES = ("arn:", "http://", "https://")


@dataclass(frozen=True, slots=True)
class NamePrefix:
    """Names with the prefix are the broker's; programs use those without it.

    Raises:
        ConfigurationError: the prefix has characters that names may not have.
    """

    text: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _PREFIX.fullmatch(self.text):
            raise ConfigurationError(
                f"prefix must be up to 40 letters, digits, hyphens and underscores, such as 'staging-', not {self.text!r}"
            )

    def add(self, name: str) -> str:
        """Return the broker's name; an ARN or a URL is left alone."""
        if isinstance(name, str) and not name.startswith(_ADDRESSES):
            return self.text + name
        return name

    def strip(self, name: str) -> str:
        """Return the program's name for the broker's; the name of something without the prefix is left alone."""
        return name.removeprefix(self.text)
