"""How long to wait before the next attempt."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: a random delay up to a doubling ceiling.

    Called with the number of attempts so far (1 after the first), it returns seconds. Any such callable
    can stand in for it. Why full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    first_seconds: float = 1.0
    max_seconds: float = 900.0
    random: Callable[[], float] = random.random

    def __call__(self, attempts: int) -> float:
        # Beyond 2**32 the ceiling has long been reached; large powers would overflow a float.
        ceiling = min(self.max_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 32))
        return ceiling * (1 - self.random())  # above 0: at once is no backoff


def dependable(backoff: Callable[[int], float]) -> Callable[[int], float]:
    """Return ``backoff`` in a form that always returns a delay.

    Where it raises, or returns what is none, the default stands in for it: a message must not be lost, nor
    its group held up, by a slip in there.
    """

    def seconds_after(attempts: int) -> float:
        try:
            seconds = backoff(attempts)
            if 0 <= seconds < math.inf:
                return seconds
            logger.error(
                "backoff(%d) returned %r, no number of seconds: using the default", attempts, seconds
            )
        except Exception:
            logger.exception("backoff(%d) failed: using the default", attempts)
        return Backoff()(attempts)

    return seconds_after
