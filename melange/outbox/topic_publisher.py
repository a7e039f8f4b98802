"""Publish to the topics of an outbox, each looked up once, and paused while it is in trouble."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from melange.backoff import Backoff
from melange.drivers.base import MessagingDriver, find_topic
from melange.errors import (
    ConfigurationError,
    DriverClosedError,
    DriverError,
    Failure,
    InvalidMessageError,
    InvalidNameError,
    MelangeError,
    SerializationError,
    TopicNotFoundError,
)
from melange.messages import Message, Topic
from melange.middleware import publish_through

logger = logging.getLogger(__name__)

_FOR_GOOD = (InvalidMessageError, ConfigurationError, SerializationError)
"""Errors that another attempt cannot change."""

_MOST_RESTING = 100
_FORGOTTEN_SECONDS = 60.0
"""After this time without a new try, a paused topic has nothing to send: another relay has sent it."""


@dataclass(slots=True)
class Answer:
    """The results of some messages of one topic, by their positions.

    ``refused`` messages will never be accepted; ``failed`` ones were not accepted while others were. A message in none
    of the three was not tried, or there was ``trouble`` with the whole topic, which does not count for the message.
    """

    accepted: list[int] = field(default_factory=list)
    refused: dict[int, MelangeError] = field(default_factory=dict)
    failed: dict[int, MelangeError] = field(default_factory=dict)
    trouble: MelangeError | None = None
    is_fault: bool = False
    """True if no driver should raise this trouble, so that the message may be the cause."""


class TopicPublisher:
    """Publishes to topics by name, and pauses those in trouble.

    Trouble with a topic, or with the connection to the broker, pauses that topic, longer each time; it does not count
    for the messages. A message that fails while others are accepted pauses only its key. Not thread-safe.
    """

    def __init__(self, driver: MessagingDriver, *, declare: bool) -> None:
        self._driver = driver
        self._declare = declare
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        self._found: dict[str, Topic] = {}
        self._known: set[str] = set()
        """Topics that existed once. If one is deleted, it would come back without subscriptions, and lose what it gets."""
        self._troubles: dict[str, int] = {}
        self._paused_until: dict[str, float] = {}
        self.errors: dict[str, MelangeError] = {}
        """The last trouble of each topic that is in trouble."""
        self._resting: dict[int, tuple[float, MelangeError]] = {}

    @property
    def paused(self) -> list[str]:
        """The names of the topics that are paused now."""
        if not self._paused_until:
            return []
        now = self._driver.clock.monotonic()
        for name in [name for name, until in self._paused_until.items() if until < now - _FORGOTTEN_SECONDS]:
            self._is_well(name)
        return [name for name, until in self._paused_until.items() if until > now]

    @property
    def resting_lock_keys(self) -> list[int]:
        """The lock keys that are paused now."""
        if self._resting:
            now = self._driver.clock.monotonic()
            self._resting = {key: rest for key, rest in self._resting.items() if rest[0] > now}
        return list(self._resting)

    @property
    def troubles(self) -> list[MelangeError]:
        """The last error of each topic in trouble and each paused key."""
        return [*self.errors.values(), *(error for _, error in self._resting.values())]

    def rest(self, lock_key: int, attempts: int, error: MelangeError) -> None:
        """Pause a key, because its message was not accepted while others were."""
        self._resting[lock_key] = (self._driver.clock.monotonic() + self._backoff(attempts), error)

    def seconds_to_next_try(self) -> float:
        """Return the time of the next retry of a paused topic or key; infinity if there is none."""
        ends = [*self._paused_until.values(), *(until for until, _ in self._resting.values())]
        now = self._driver.clock.monotonic()
        return min((until - now for until in ends if until > now), default=math.inf)

    def publish(self, name: str, messages: Sequence[Message]) -> Answer:
        """Publish messages to a topic, and return their results.

        Raises:
            DriverClosedError: the driver was closed.
        """
        answer = self._publish(name, messages)
        if answer.trouble is not None:
            self._pause(name, answer.trouble)
        else:
            self._is_well(name)
            if answer.failed and len(self._resting) >= _MOST_RESTING:  # that many are hardly all the cause
                self._pause(name, next(iter(answer.failed.values())))
        return answer

    def _publish(self, name: str, messages: Sequence[Message]) -> Answer:
        try:
            return self._hand_over(name, messages)
        except DriverClosedError:
            raise
        except TopicNotFoundError as error:
            self._found.pop(name, None)
            return Answer(trouble=error)
        except MelangeError as error:
            return Answer(trouble=error)
        except Exception as error:  # messages published before must still be marked
            logger.exception("the driver failed on topic %s", ascii(name))
            if len(messages) > 1:
                return self._publish_each(name, messages)
            fault = DriverError(f"the driver failed with {type(error).__name__}: {error}")
            return Answer(trouble=fault, is_fault=True)

    def _hand_over(self, name: str, messages: Sequence[Message]) -> Answer:
        try:
            topic = self._found.get(name) or self._find(name)
        except InvalidNameError as error:  # the name is not valid
            return Answer(refused=dict.fromkeys(range(len(messages)), error))
        self._found[name] = topic
        self._known.add(name)
        try:
            publish = partial(self._driver.publish, topic)
            failures = publish_through(self._driver.middleware, topic, messages, publish)
        except InvalidMessageError as error:
            return self._publish_each(name, messages) if len(messages) > 1 else Answer(refused={0: error})
        return _answer(messages, failures)

    def _find(self, name: str) -> Topic:
        try:
            return self._driver.get_topic(name)
        except TopicNotFoundError:
            if not self._declare or name in self._known:
                raise
        topic = find_topic(self._driver, name, declare=True)
        logger.warning(
            "topic %s did not exist and was created: messages published to it are lost until a queue is bound. With "
            "--no-declare (declare=False) they wait until a consumer has made it",
            ascii(name),
            extra={"topic_name": name},
        )
        return topic

    def _publish_each(self, name: str, messages: Sequence[Message]) -> Answer:
        """Publish one by one, because one of them makes the broker refuse all, or the driver fail on all."""
        whole = Answer()
        for place, message in enumerate(messages):
            try:
                answer = self._publish(name, [message])
            except DriverClosedError as error:  # messages accepted before have to be marked
                answer = Answer(trouble=error)
            if answer.accepted:
                whole.accepted.append(place)
            elif answer.refused:
                whole.refused[place] = answer.refused[0]
            elif answer.is_fault and answer.trouble is not None:
                whole.failed[place] = answer.trouble
            else:
                whole.trouble = answer.trouble
                break
        return _blaming(whole)

    def _is_well(self, name: str) -> None:
        for of_topic in (self._troubles, self._paused_until, self.errors):
            of_topic.pop(name, None)

    def _pause(self, name: str, error: MelangeError) -> None:
        troubles = self._troubles[name] = self._troubles.get(name, 0) + 1
        seconds = self._backoff(troubles)
        self._paused_until[name] = self._driver.clock.monotonic() + seconds
        self.errors[name] = error
        logger.warning(
            "topic %s is in trouble, trying again in %.1f s: %s",
            ascii(name),
            seconds,
            ascii(str(error)),
            extra={"topic_name": name},
        )


def _answer(messages: Sequence[Message], failures: Sequence[Failure[Message]]) -> Answer:
    if not failures:
        return Answer(accepted=list(range(len(messages))))
    errors = {failure.item.message_id: failure.error for failure in failures}
    unknown = errors.keys() - {message.message_id for message in messages}
    if unknown:  # published twice is better than lost
        return Answer(trouble=DriverError("the driver reported a failure of a message that it was not given"))
    answer = Answer()
    for place, message in enumerate(messages):
        error = errors.get(message.message_id)
        if error is None:
            answer.accepted.append(place)
        elif isinstance(error, _FOR_GOOD):
            answer.refused[place] = error
        else:
            answer.failed[place] = error
    return _blaming(answer)


def _blaming(answer: Answer) -> Answer:
    """Return the answer with trouble if all messages that were not refused failed: it looks like an outage."""
    if answer.failed and not answer.accepted:
        answer.trouble = next(iter(answer.failed.values()))
        answer.failed.clear()
    return answer
