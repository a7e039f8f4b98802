"""What happened to one message, from publish to delete, across topics and queues: read from the event log.

A message changes its id on its way. SNS gives the one that is published an id, each queue gives its copy another, and so
does a move out of a dead-letter queue. A story has all of them, and copies that carry the same ``melange-message-id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from melange.drivers.sqs_rules import MESSAGE_ID_ATTRIBUTE, message_from_attributes
from melange.messages import DEAD_LETTER_HEADER
from melange.server.contents import decoded, task_in, type_in
from melange.server.event_log import Entry, EventKind
from melange.server.sns.notifications import Notification
from melange.server.sqs.messages import SentMessage

if TYPE_CHECKING:
    from melange.server.broker import Broker
    from melange.server.calls import Caller

Key = int | str | tuple[str]
"""A message by its number, by its id in a topic, or by melange's own id, which is in a tuple."""

_LEAVES = {"deleted", "dead-lettered", "expired", "moved", "purged", "queue deleted"}
"""Events after which a message is no longer in its queue."""


class Event(NamedTuple):
    """Something that happened to a message.

    ``arn`` is the queue or topic where it happened and ``message_id`` the message's id there. ``other_arn`` is the queue or
    endpoint on the other side, ``other_id`` its id on the other side. Times are seconds since 1970. ``visible_at`` is when
    the message becomes visible; 0 means at once. ``lease expired`` is not in the log: it follows from ``visible_at``.
    """

    kind: EventKind | Literal["lease expired"]
    at: float
    arn: str
    message_id: str
    other_arn: str = ""
    other_id: str = ""
    caller: Caller | None = None
    content: Notification | SentMessage | None = None
    receive_count: int = 0
    visible_at: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Story:
    """The events of one message in the order of time."""

    events: tuple[Event, ...]

    @property
    def message_id(self) -> str:
        """The first of its ids."""
        return self.events[0].message_id

    @cached_property
    def message_ids(self) -> frozenset[str]:
        """All of its ids: in topics, in queues, and melange's own."""
        ids = {event.message_id for event in self.events} | {event.other_id for event in self.events}
        return frozenset(ids | {_own_id(event.content) for event in self.events}) - {""}

    @property
    def body(self) -> str:
        """Its text as it was first published or sent; "" if the log has forgotten that."""
        return next((_body(event.content) for event in self.events if event.content is not None), "")

    @cached_property
    def event_type(self) -> str:
        """Its type, as an attribute or the body names it, or the name of its task in Celery; "" without any."""
        from melange.operations.model import event_type_in  # noqa: PLC0415 - most servers never read their log

        types = (type_in(_text_attributes(event.content)) for event in self.events)
        return next(filter(None, types), "") or event_type_in(self.body) or task_in(self.body) or ""

    def holds(self, text: str) -> bool:
        """Return True if a body, an attribute or a reason has this text, in whatever case."""
        text = text.casefold()
        return any(text in part.casefold() for event in self.events for part in _texts(event))


def find_stories(
    broker: Broker, *, message_id: str = "", event_type: str = "", text: str = "", limit: int = 100
) -> list[Story]:
    """Return the stories of messages to which all that is given applies, those with the newest events first.

    Args:
        broker: the broker with the log. Its lock is taken for the copy of the log only.
        message_id: the beginning of one of the message's ids.
        event_type: its type, in whatever case.
        text: what a body, an attribute or a reason contains, in whatever case.
        limit: the most stories to return.
    """
    found: list[Story] = []
    for story in _newest_first(broker):
        if message_id and not any(one.startswith(message_id) for one in story.message_ids):
            continue
        if event_type and story.event_type.casefold() != event_type.casefold():
            continue
        if text and not story.holds(text):
            continue
        found.append(story)
        if len(found) == limit:
            break
    return found


def find_story(broker: Broker, message_id: str) -> Story | None:
    """Return the story of the message with this id in a topic, in a queue or of melange, or None. Takes the lock."""
    log = _Log(broker)
    number = broker.number_in(message_id)
    group = log.group_of(message_id if number is None else number) or log.group_of((message_id,))
    return log.story(group) if group else None


def _newest_first(broker: Broker) -> Iterator[Story]:
    log = _Log(broker)
    for group in sorted(log.groups.values(), key=lambda entries: entries[-1][1], reverse=True):
        yield log.story(group)


class _Log:
    """The entries of a log by message. Events are made of them only where they are shown or searched."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        with broker.lock:
            entries, self._now = broker.event_log.entries(), broker.now()
        self.groups: dict[Key, list[Entry]] = {}
        self._ends: list[Entry] = []
        """What happened to all messages of a queue."""
        self._connected = _Connected()
        for entry in entries:
            self._connect(entry)
        for entry in entries:
            if entry[3] == "":
                self._ends.append(entry)
            else:
                self.groups.setdefault(self._connected.find(entry[3]), []).append(entry)

    def group_of(self, message: Key) -> list[Entry] | None:
        """Return the entries of a message, or None."""
        return self.groups.get(self._connected.find(message))

    def story(self, group: list[Entry]) -> Story:
        """Return the story that these entries tell."""
        first = group[0][1]
        entries = [*group, *(end for end in self._ends if end[1] >= first)]
        entries.sort(key=lambda entry: entry[1])
        return Story(tuple(_completed([_event(self._broker, entry) for entry in entries], self._now)))

    def _connect(self, entry: Entry) -> None:
        kind, _, _, message, _, details = entry
        if kind in {"published", "sent"}:
            own_id = details[1].attributes.get(MESSAGE_ID_ATTRIBUTE)
            if own_id and "StringValue" in own_id:
                self._connected.join(message, (own_id["StringValue"],))
            if kind == "sent" and details[3]:
                self._connected.join(message, details[3])
        elif kind == "moved":
            self._connected.join(message, details[1])


class _Connected:
    """Ids that belong to the same message."""

    def __init__(self) -> None:
        self._parents: dict[Key, Key] = {}

    def find(self, one: Key) -> Key:
        """Return the id that stands for all that are connected with this one."""
        while (parent := self._parents.get(one, one)) != one:
            self._parents[one] = self._parents.get(parent, parent)
            one = parent
        return one

    def join(self, one: Key, other: Key) -> None:
        self._parents[self.find(one)] = self.find(other)


def _completed(events: list[Event], now: float) -> list[Event]:
    """Return the events of a message, those of its queues only while it was there, and with leases that expired."""
    completed: list[Event] = []
    hidden: dict[tuple[str, str], float] = {}
    """Until when the message is in flight, by queue and id; 0 while it is not."""

    def expire(key: tuple[str, str], until: float) -> None:
        if hidden[key] and hidden[key] <= until:
            completed.append(Event("lease expired", hidden[key], *key))
            hidden[key] = 0.0

    for event in events:
        for key in list(hidden):
            expire(key, event.at)
        if not event.message_id:
            for key in [key for key in hidden if key[0] == event.arn]:
                completed.append(event._replace(message_id=key[1]))
                del hidden[key]
            continue
        completed.append(event)
        _follow(event, hidden)
    for key in list(hidden):
        expire(key, now)
    return completed


def _follow(event: Event, hidden: dict[tuple[str, str], float]) -> None:
    key = (event.arn, event.message_id)
    if event.kind == "sent":
        hidden[key] = 0.0
    elif event.kind in {"received", "visibility changed"}:
        hidden[key] = event.visible_at if event.visible_at > event.at else 0.0
    elif event.kind in _LEAVES:
        hidden.pop(key, None)
        if event.kind == "dead-lettered":
            hidden[event.other_arn, event.message_id] = 0.0


def _event(broker: Broker, entry: Entry) -> Event:
    kind, at, arn, message, caller, details = entry
    message_id = message if isinstance(message, str) else broker.message_id(message)
    return Event(kind, at, arn, message_id, caller=caller, **_details(broker, kind, details))


def _details(  # noqa: PLR0911 - one for each kind
    broker: Broker, kind: EventKind, details: tuple[Any, ...]
) -> dict[str, Any]:
    match kind, details:
        case "published", (_, content):
            return {"content": content}
        case "sent", (_, content, visible_at, other_id):
            reason = _dead_letter_reason(content)
            return {
                "content": content,
                "visible_at": max(visible_at, 0.0),
                "other_id": other_id,
                "reason": reason,
            }
        case "dropped as duplicate", (other_id,):
            return {"other_id": other_id}
        case "filtered out", (endpoint, subscription_arn, policy):
            return {
                "other_arn": endpoint,
                "reason": f"filter policy {policy} of subscription {subscription_arn}",
            }
        case "received", (receive_count, visible_at):
            return {"receive_count": receive_count, "visible_at": visible_at}
        case "visibility changed", (visible_at,):
            return {"visible_at": visible_at}
        case "dead-lettered", (target_arn, receive_count, most):
            times = "once" if receive_count == 1 else f"{receive_count} times"
            reason = f"received {times}; the maxReceiveCount of the queue is {most}"
            return {"other_arn": target_arn, "receive_count": receive_count, "reason": reason}
        case "moved", (target_arn, number):
            return {"other_arn": target_arn, "other_id": broker.message_id(number)}
        case "not delivered" | "delivered over HTTP" | "HTTP delivery failed", (endpoint, reason):
            return {"other_arn": endpoint, "reason": reason}
    return {}


def _own_id(content: Notification | SentMessage | None) -> str:
    return _text_attributes(content).get(MESSAGE_ID_ATTRIBUTE, "")


def _body(content: Notification | SentMessage | None) -> str:
    if content is None:
        return ""
    return content.body if isinstance(content, SentMessage) else content.bodies["default"]


def _text_attributes(content: Notification | SentMessage | None) -> dict[str, str]:
    if content is None or not content.attributes:
        return {}
    return _texts_in(content.attributes)


def _texts_in(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value}


def _texts(event: Event) -> Iterable[str]:
    yield event.reason
    if event.content is not None:
        yield decoded(_body(event.content))
        for name, value in _text_attributes(event.content).items():
            yield name
            yield value


def _dead_letter_reason(content: SentMessage) -> str:
    """Return the reason that melange wrote into a message that it dead-lettered itself."""
    if not content.attributes:
        return ""
    message = message_from_attributes("", _text_attributes(content), fallback_message_id="")
    return message.headers.get(DEAD_LETTER_HEADER, "")
