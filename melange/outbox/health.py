"""Whether a relay does its work, for probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from melange.errors import MelangeError

LONGEST_SILENCE_SECONDS = 90.0
"""How long a relay may be about one batch: far longer than a broker takes to answer, or to be given up."""


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """A relay's state at one moment.

    It is ``ready`` while it runs and the database has answered lately: what an HTTP probe answers with 200. One
    that stands by for another on SQLite is ready too. ``seconds_since_round`` counts from when it last had
    looked for messages and published what it found, or had found the work taken; None before the first time.

    ``troubles`` are the topics that take nothing, each with the reason of the last attempt. They are tried
    again, and do not make the relay any less ready: restarting it would mend none of them.
    """

    ready: bool
    stands_by: bool
    seconds_since_round: float | None
    troubles: Mapping[str, MelangeError]
