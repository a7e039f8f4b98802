"""Every error that melange raises, in one tree.

    MelangeError
    ├── ConfigurationError            the call is not valid
    │   ├── UnknownDriverError        no driver of that name
    │   ├── NoDriverError             no driver chosen yet
    │   ├── InvalidNameError          a topic or queue name the broker would refuse
    │   ├── DuplicateHandlerError     a second listener, class or handler for one name
    │   └── HandlerNotFoundError      nothing registered that could handle it
    ├── SerializationError
    │   ├── EncodeError               an event that cannot become a message
    │   └── DecodeError               a message that cannot become an event
    ├── PublishError                  part of a batch was not accepted
    ├── DriverError                   the broker or the connection to it failed
    │   ├── DriverConnectionError     worth retrying: network, throttling, outage
    │   ├── DriverClosedError         used after close()
    │   ├── TopicNotFoundError
    │   ├── QueueNotFoundError
    │   ├── AccessDeniedError         credentials missing, wrong or without the permission
    │   └── InvalidMessageError       a message the broker would refuse, found before sending
    │       └── MessageTooLargeError
    ├── LeaseLostError                the delivery is no longer ours to settle
    ├── TimeLimitExceeded             a listener ran longer than it may
    ├── NoReplyError                  a request without a reply in time
    ├── CascadeError                  domain events in an infinite loop
    ├── DeduplicationError            the deduplication store is out of reach or broken
    └── OutboxError                   the outbox's database cannot be used

    Raised by listeners to control the outcome; not MelangeErrors:
    Retry(delay_seconds), Reject(reason), PartialFailure(errors) of a batch listener

Exceptions of botocore, redis and marshmallow are wrapped, with ``raise ... from``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeGuard, TypeVar

from melange.messages import Delivery, Message


class MelangeError(Exception):
    """The base class of all errors of melange."""


class ConfigurationError(MelangeError):
    """The call is not valid; change it."""


class UnknownDriverError(ConfigurationError):
    """No driver is registered under this name: ``driver_name``; ``known_names`` lists those that are."""

    def __init__(self, driver_name: str, known_names: Iterable[str]) -> None:
        self.driver_name = driver_name
        self.known_names = sorted(known_names)
        super().__init__(
            f"there is no driver {driver_name!r}{nearest(driver_name, self.known_names)}; "
            f"known are {', '.join(map(repr, self.known_names))}. A driver of your own is added with "
            "DriverManager.instance().add_available_drivers(name=DriverClass)"
        )


class NoDriverError(ConfigurationError):
    """No driver was chosen."""

    def __init__(self) -> None:
        super().__init__(
            "no driver was chosen: call DriverManager.instance().use_driver(driver_name='memory') "
            "(or 'aws') first, or pass driver= to the publisher, consumer or relay"
        )


class InvalidNameError(ConfigurationError):
    """A topic or queue name that the broker would refuse: ``name``."""

    def __init__(self, kind: str, name: object, rule: str) -> None:
        self.name = name
        super().__init__(f"{name!r} is not a valid {kind} name: {rule}")


class DuplicateHandlerError(ConfigurationError):
    """Something is already registered under this name."""


class HandlerNotFoundError(ConfigurationError):
    """Nothing is registered that could handle this."""


class SerializationError(MelangeError):
    """An event and its text form do not match."""


class EncodeError(SerializationError):
    """The event cannot be written as a message."""


class DecodeError(SerializationError):
    """The message cannot be read as an event."""


ItemT = TypeVar("ItemT", Message, Delivery)


@dataclass(frozen=True, slots=True)
class Failure(Generic[ItemT]):
    """One item of a batch that failed, and why."""

    item: ItemT
    error: MelangeError


class PublishError(MelangeError):
    """Some messages of a batch were not accepted.

    ``succeeded`` has the ids of the accepted messages, ``failures`` the
    others, each with its own error. Publishing the failed ones again is safe.
    """

    def __init__(self, succeeded: Sequence[str], failures: Sequence[Failure[Message]]) -> None:
        self.succeeded = list(succeeded)
        self.failures = list(failures)
        first = self.failures[0]
        super().__init__(
            f"{len(self.failures)} of {len(self.failures) + len(self.succeeded)} messages were not "
            f"accepted; the first, {first.item.message_id}: {first.error}. "
            "See .failures for each, and publish those again"
        )


class DriverError(MelangeError):
    """The broker or the connection to it failed."""


class DriverConnectionError(DriverError):
    """The broker is unavailable or too busy; a later try may succeed."""


class DriverClosedError(DriverError):
    """The driver was used after ``close()``."""

    def __init__(self) -> None:
        super().__init__("this driver is closed; create a new one with DriverManager.use_driver()")


_DECLARE_IT = ": create its consumer first, which declares it, or check the name"


class TopicNotFoundError(DriverError):
    """The topic does not exist: ``topic_name``."""

    def __init__(self, topic_name: str, advice: str = "") -> None:
        self.topic_name = topic_name
        super().__init__(f"topic {topic_name!r} does not exist{advice or _DECLARE_IT}")


class QueueNotFoundError(DriverError):
    """The queue does not exist: ``queue_name``."""

    def __init__(self, queue_name: str, advice: str = "") -> None:
        self.queue_name = queue_name
        super().__init__(f"queue {queue_name!r} does not exist{advice or _DECLARE_IT}")


class AccessDeniedError(DriverError):
    """Credentials are missing, wrong, or lack the permission."""


class InvalidMessageError(DriverError):
    """The broker would refuse this message; nothing was sent."""


class MessageTooLargeError(InvalidMessageError):
    """The message is larger than its topic or queue allows; nothing was sent.

    ``size_bytes`` counts the message with its headers, ``max_bytes`` is the limit, ``message_id`` names the message.
    """

    def __init__(self, message_id: str, size_bytes: int, max_bytes: int) -> None:
        self.message_id = message_id
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes
        super().__init__(
            f"message {message_id} has {size_bytes:,} bytes with its headers, {max_bytes:,} are "
            "allowed: publish a smaller event, or keep large ones in S3 with melange.large_events (extra melange[s3])"
        )


class LeaseLostError(MelangeError):
    """The visibility timeout expired, so another receiver may have the message."""


class TimeLimitExceeded(MelangeError):
    """A listener ran for longer than its time limit of ``limit_seconds``; it counts as a failed attempt."""

    def __init__(self, what: str, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        super().__init__(f"{what} ran for longer than its limit of {limit_seconds:g} s")


class NoReplyError(MelangeError):
    """No reply to a request came within ``timeout_seconds``; the service of ``queue_name`` may still work on it."""

    def __init__(self, queue_name: str, timeout_seconds: float) -> None:
        self.queue_name = queue_name
        self.timeout_seconds = timeout_seconds
        super().__init__(
            f"no reply to the request to queue {queue_name!r} came within {timeout_seconds:g} s: its consumer may be stopped, "
            "slow, or behind a backlog"
        )


class CascadeError(MelangeError):
    """The handling of domain events publishes domain events in an infinite loop.

    ``limit`` is the bus's ``cascade_limit``; ``last_event_types`` names the classes that were published last.
    """

    def __init__(self, limit: int, last_event_types: Sequence[str]) -> None:
        self.limit = limit
        self.last_event_types = list(last_event_types)
        super().__init__(
            f"more than {limit:,} domain events followed from one publish; the last were "
            f"{', '.join(self.last_event_types)}. Find the loop in their subscribers, or raise the "
            "cascade_limit of the bus"
        )


class DeduplicationError(MelangeError):
    """The deduplication store is unavailable; nothing was decided."""


class OutboxError(MelangeError):
    """The outbox's database is unavailable, or another relay uses it."""


class Retry(Exception):
    """Raise it in a listener to retry the event after ``delay_seconds``.

    It counts as an attempt; after the last one the message goes to the dead-letter queue.
    """

    def __init__(self, delay_seconds: float) -> None:
        if not is_number(delay_seconds) or not 0 <= delay_seconds < math.inf:
            raise ValueError(f"delay_seconds must be 0 or more, not {delay_seconds!r}")
        self.delay_seconds = delay_seconds
        super().__init__(f"retry in {delay_seconds} s")


class Reject(Exception):
    """Raise it in a listener to send the event to the dead-letter queue without further attempts.

    ``reason`` is kept with the dead letter, at most 1,000 characters: leave secrets out.
    """

    def __init__(self, reason: object) -> None:
        # A reason of another type must not break the settlement of the message.
        self.reason = reason if isinstance(reason, str) else shortened(reason, 1_000)
        super().__init__(self.reason)


class PartialFailure(Exception):
    """Raise it in a batch listener if only some of its events failed; the others are done.

    Args:
        errors: the exception of each failed event, by its place in the list of events, from 0. ``Retry`` and ``Reject``
            control what happens to the event, as in other listeners.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        for number, error in errors.items() if isinstance(errors, Mapping) else [(None, None)]:
            if not is_whole_number(number) or not isinstance(error, Exception):
                raise TypeError(
                    "PartialFailure takes a dict of exceptions by places, such as {2: ValueError('no price')}"
                )
        self.errors = dict(errors)
        super().__init__(f"{len(self.errors)} events of the batch failed")


def shortened(text: object, limit: int = 80) -> str:
    """Return ``text`` of unknown origin for errors and logs: in quotes, on one line, cut.

    At most ``limit`` characters are between the quotes. Control characters, line breaks and all others that do not
    print are escaped. It never fails, for any ``text``.
    """
    try:
        plain = str(text)
    except Exception:  # of the object's own method, or Python's limit on the digits of an integer
        plain = f"<{type(text).__name__}>"
    # Cut before it is escaped, so that a long text takes no more time than a short one.
    quoted = repr(plain[: limit + 1])
    quote, escaped = quoted[0], quoted[1:-1]
    if len(escaped) > limit:
        escaped = f"{escaped[: limit - 3]}..."
    return f"{quote}{escaped}{quote}"


def is_number(value: object) -> bool:
    """Return True for an int or a float, which may be infinite; False for NaN, True and False."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def is_whole_number(value: object) -> TypeGuard[int]:
    """Return True for an int; False for True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def nearest(name: str, known_names: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known_names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
