"""Publishing to the topics of an outbox, each found once, and left alone for a while when it takes nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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

logger = logging.getLogger(__name__)

_FOR_GOOD = (InvalidMessageError, ConfigurationError, SerializationError)
"""What another attempt cannot change."""

_MOST_RESTING = 100
_FORGOTTEN_SECONDS = 60.0
"""So long after its pause a topic that was not tried again has nothing to send: another relay has sent it, say."""


@dataclass(slots=True)
class Answer:
    """What became of some messages of one topic, by their places among them.

    ``refused`` will never be accepted; ``failed`` were not, where others were. What is in none of the three was not
    tried, or there was ``trouble`` with the topic as a whole, and nothing is held against the message.
    """

    accepted: list[int] = field(default_factory=list)
    refused: dict[int, MelangeError] = field(default_factory=dict)
    failed: dict[int, MelangeError] = field(default_factory=dict)
    trouble: MelangeError | None = None
    is_fault: bool = False
    """Whether the trouble is what no driver should raise, and the message may be to blame."""


class TopicPublisher:
    """Publishes to topics by name, and knows which of them to leave alone for a while.

    Trouble with a topic, or with the way to the broker, pauses that topic, longer each time: no message is to
    blame for it. A message that fails where others are accepted has its key rest alone. Not thread-safe.
    """

    def __init__(self, driver: MessagingDriver, *, declare: bool) -> None:
        self._driver = driver
        self._declare = declare
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        self._found: dict[str, Topic] = {}
        self._troubles: dict[str, int] = {}
        self._paused_until: dict[str, float] = {}
        self.errors: dict[str, MelangeError] = {}
        """The last trouble of each topic that is in trouble."""
        self._resting: dict[int, tuple[float, MelangeError]] = {}

    @property
    def paused(self) -> list[str]:
        """The names of the topics to leave alone now."""
        if not self._paused_until:
            return []
        now = self._driver.clock.monotonic()
        for name in [name for name, until in self._paused_until.items() if until < now - _FORGOTTEN_SECONDS]:
            self._is_well(name)
        return [name for name, until in self._paused_until.items() if until > now]

    @property
    def resting_lock_keys(self) -> list[int]:
        """The lock keys to leave alone now."""
        if self._resting:
            now = self._driver.clock.monotonic()
            self._resting = {key: rest for key, rest in self._resting.items() if rest[0] > now}
        return list(self._resting)

    @property
    def troubles(self) -> list[MelangeError]:
        """Why not everything goes: for each topic in trouble, and each key that rests, the last error."""
        return [*self.errors.values(), *(error for _, error in self._resting.values())]

    def rest(self, lock_key: int, attempts: int, error: MelangeError) -> None:
        """Leave a key alone for a while, since its message was not accepted where others were."""
        self._resting[lock_key] = (self._driver.clock.monotonic() + self._backoff(attempts), error)

    def seconds_to_next_try(self) -> float:
        """Return when the first of what is left alone may be tried again; infinity if nothing is."""
        ends = [*self._paused_until.values(), *(until for until, _ in self._resting.values())]
        now = self._driver.clock.monotonic()
        return min((until - now for until in ends if until > now), default=math.inf)

    def publish(self, name: str, messages: Sequence[Message]) -> Answer:
        """Publish messages to a topic, and say what became of them.

        Raises:
            DriverClosedError: nothing more can be published.
        """
        answer = self._publish(name, messages)
        if answer.trouble is not None:
            self._pause(name, answer.trouble)
        else:
            self._is_well(name)
            if answer.failed and len(self._resting) >= _MOST_RESTING:  # that many are hardly each to blame
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
        except Exception as error:  # what was published before must be marked all the same
            logger.exception("the driver failed on topic %s", ascii(name))
            if len(messages) > 1:
                return self._publish_each(name, messages)
            fault = DriverError(f"the driver failed with {type(error).__name__}: {error}")
            return Answer(trouble=fault, is_fault=True)

    def _hand_over(self, name: str, messages: Sequence[Message]) -> Answer:
        try:
            topic = self._found.get(name) or self._find(name)
        except InvalidNameError as error:  # no topic can have this name
            return Answer(refused=dict.fromkeys(range(len(messages)), error))
        self._found[name] = topic
        try:
            failures = self._driver.publish(topic, messages)
        except InvalidMessageError as error:
            return self._publish_each(name, messages) if len(messages) > 1 else Answer(refused={0: error})
        return _answer(messages, failures)

    def _find(self, name: str) -> Topic:
        try:
            return self._driver.get_topic(name)
        except TopicNotFoundError:
            if not self._declare:
                raise
        topic = find_topic(self._driver, name, declare=True)
        logger.warning(
            "topic %s did not exist and was created: what is published to it is gone until a queue is bound",
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
            except DriverClosedError as error:  # what was accepted before is to be marked
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
            "topic %s takes nothing, trying again in %.1f s: %s",
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
    if unknown:  # rather published twice than lost
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
    """Return the answer with trouble where all that was not refused has failed: nothing tells it from an outage."""
    if answer.failed and not answer.accepted:
        answer.trouble = next(iter(answer.failed.values()))
        answer.failed.clear()
    return answer
