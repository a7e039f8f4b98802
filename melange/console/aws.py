"""The backend of ``melange console``: SNS and SQS of an account, through the driver.

A look at messages is a receive there, so it happens on request only. What it has seen is kept and shown until the next
look. Nothing is deleted except for dead letters and, if purges are allowed, the messages of a queue.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from melange.console.backend import Controls, Log, NotFoundError, RefusedError
from melange.console.model import (
    FIRST_MESSAGES,
    Binding,
    Draft,
    Message,
    MessageQuery,
    Messages,
    Overview,
    Queue,
    Topic,
)
from melange.console.reading import draft_of, read_dead_letter
from melange.drivers.aws.driver import AwsDriver
from melange.drivers.aws.inspection import AccountSubscription
from melange.drivers.aws.policies import NO_STATEMENT, sending_problem
from melange.drivers.sqs_rules import FIFO_SUFFIX
from melange.errors import MelangeError, QueueNotFoundError, TopicNotFoundError
from melange.operations import DeadLetters, Report, Selection

DEPTH_SECONDS = 15.0
"""The age at which depths are asked for again: one call for each queue."""

LISTING_SECONDS = 120.0
"""The age at which topics and subscriptions are listed again."""

LOOKED_AT_MESSAGES = 100
"""The number of messages that a look receives at most."""


class AwsBackend:
    """Shows SNS and SQS, and changes little. Thread-safe; methods block on calls.

    Args:
        driver: the driver with the account, the region and the credentials. It stays the caller's.
        allows_purging: True offers to purge queues.
    """

    url = ""
    looking_receives = True
    counts_are_estimates = True
    controls: Controls | None = None
    log: Log | None = None

    def __init__(self, driver: AwsDriver, *, allows_purging: bool = False) -> None:
        self.allows_purging = allows_purging
        self._driver = driver
        self._account = driver.account()
        self._lock = threading.Lock()
        self._overview: Overview | None = None
        self._overview_at = 0.0
        self._listed: tuple[list[Topic], list[Binding]] = ([], [])
        self._listed_at: float | None = None
        self._looks: dict[str, tuple[float, list[Message]]] = {}

    @property
    def title(self) -> str:
        return f"SNS and SQS, {self._account.region_name}"

    def now(self) -> float:
        return self._driver.clock.now().timestamp()

    def overview(self) -> Overview:
        with self._lock, _explained():
            if self._overview is None or time.monotonic() - self._overview_at > DEPTH_SECONDS:
                self._overview = self._ask()
                self._overview_at = time.monotonic()
            return self._overview

    def look(self, queue_arn: str) -> None:
        with _explained():
            raws = self._account.look(queue_arn, LOOKED_AT_MESSAGES)
        # A message that becomes visible again may be received twice by one look.
        messages = {raw["MessageId"]: _message(raw) for raw in raws}
        self._looks[queue_arn] = self.now(), list(messages.values())

    def looked_at(self, queue_arn: str) -> float | None:
        look = self._looks.get(queue_arn)
        return look[0] if look else None

    def messages(self, queue_arn: str, query: MessageQuery = FIRST_MESSAGES) -> Messages:
        text = query.text.casefold()
        found = [one for one in self._seen(queue_arn) if _has(one, text) and query.state in {"", one.state}]
        found.sort(key=lambda message: message.sent_at, reverse=query.newest_first)
        keys = [message.key for message in found]
        start = keys.index(query.after) + 1 if query.after in keys else 0
        shown = found[start : start + query.limit]
        return Messages(shown, shown[-1].key if start + query.limit < len(found) else None)

    def message(self, queue_arn: str, key: str) -> Message:
        for message in self._seen(queue_arn):
            if message.key == key:
                return message
        raise NotFoundError("The last look at the queue has not seen this message: look again.")

    def last_draft(self, arn: str) -> Draft | None:
        seen = self._seen(arn)
        return draft_of(max(seen, key=lambda message: message.sent_at)) if seen else None

    def send(self, queue_arn: str, draft: Draft) -> str:
        parameters: dict[str, Any] = {"MessageBody": draft.body, **_common(draft)}
        if draft.delay_seconds is not None:
            parameters["DelaySeconds"] = draft.delay_seconds
        with _explained():
            return self._account.send(queue_arn, parameters)

    def publish(self, topic_arn: str, draft: Draft) -> str:
        parameters = {"Message": draft.body, **_common(draft)}
        if draft.subject:
            parameters["Subject"] = draft.subject
        with _explained():
            return self._account.publish(topic_arn, parameters)

    def release(self, queue_arn: str, key: str) -> None:
        raise RefusedError("On SQS only the consumer that has a message can release it.")

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        selection = self._selection(queue_arn, keys)
        with _explained():
            return self._done(queue_arn, self._dead_letters(queue_arn).remove(selection))

    def move(self, queue_arn: str, keys: Sequence[str], target_arn: str) -> int:
        selection = self._selection(queue_arn, keys)
        with _explained():
            return self._done(queue_arn, self._dead_letters(queue_arn).retry(selection, to=target_arn))

    def retry(self, queue_arn: str, keys: Sequence[str]) -> int:
        selection = self._selection(queue_arn, keys)
        with _explained():
            return self._done(queue_arn, self._dead_letters(queue_arn).retry(selection))

    def retry_all(self, queue_arn: str) -> int:
        with _explained():
            return self._done(queue_arn, self._dead_letters(queue_arn).retry(Selection()))

    def purge(self, queue_arn: str) -> None:
        if not self.allows_purging:
            raise RefusedError("Start the console with --allow-purge to purge queues of AWS.")
        with _explained():
            self._driver.purge_queue(self._driver.get_queue(queue_arn))
        self._forget(queue_arn)

    def delete_queue(self, queue_arn: str) -> None:
        raise RefusedError("The console does not delete queues of AWS.")

    def delete_topic(self, topic_arn: str) -> None:
        raise RefusedError("The console does not delete topics of AWS.")

    def _ask(self) -> Overview:
        now = time.monotonic()
        if self._listed_at is None or now - self._listed_at > LISTING_SECONDS:
            topics = [Topic(arn, arn.endswith(FIFO_SUFFIX)) for arn in self._account.topic_arns()]
            self._listed = topics, [_binding(one) for one in self._account.subscriptions()]
            self._listed_at = now
        topics, bindings = self._listed
        found = self._account.queues()
        by_arn = {attributes["QueueArn"]: attributes for attributes in found}
        sources: dict[str, list[str]] = {}
        for attributes in found:
            target = _redrive_of(attributes)[0]
            if target:
                sources.setdefault(target, []).append(attributes["QueueArn"])
        queues = [_queue(attributes, sources.get(attributes["QueueArn"], [])) for attributes in found]
        return Overview(
            sorted(topics, key=lambda topic: topic.name),
            sorted(queues, key=lambda queue: queue.name),
            sorted(
                (_checked(one, by_arn) for one in bindings),
                key=lambda binding: (binding.topic_arn, binding.endpoint),
            ),
        )

    def _seen(self, queue_arn: str) -> list[Message]:
        look = self._looks.get(queue_arn)
        return look[1] if look else []

    def _forget(self, queue_arn: str) -> None:
        self._looks.pop(queue_arn, None)
        with self._lock:  # depths that are being asked for are from before the change
            self._overview = None

    def _dead_letters(self, queue_arn: str) -> DeadLetters:
        queue = self.overview().queue(queue_arn)
        if queue is None:
            raise NotFoundError(f"The queue {queue_arn} does not exist.")
        if not queue.holds_dead_letters or queue.dead_letter_arn:
            raise RefusedError("On AWS the console moves and deletes messages of dead-letter queues only.")
        return DeadLetters(queue_arn, self._driver)

    def _selection(self, queue_arn: str, keys: Sequence[str]) -> Selection:
        letters = [read_dead_letter(self.message(queue_arn, key)) for key in keys]
        return Selection(message_ids=frozenset(letter.message_id for letter in letters))

    def _done(self, queue_arn: str, report: Report) -> int:
        self._forget(queue_arn)
        if report.not_done:
            failed = report.not_done[0]
            raise RefusedError(
                f"Done: {report.done}. Not done: {len(report.not_done)}, because {failed.error}"
            )
        return report.done


@contextmanager
def _explained() -> Iterator[None]:
    """Raise the console's errors for those of the driver."""
    try:
        yield
    except (QueueNotFoundError, TopicNotFoundError) as error:
        raise NotFoundError(str(error)) from error
    except MelangeError as error:
        raise RefusedError(str(error)) from error


def _queue(attributes: Mapping[str, str], sources: Sequence[str]) -> Queue:
    def number(kind: str) -> int:
        return int(attributes.get(f"ApproximateNumberOfMessages{kind}", "0"))

    target, count = _redrive_of(attributes)
    return Queue(
        attributes["QueueArn"],
        attributes["QueueArn"].endswith(FIFO_SUFFIX),
        number(""),
        number("NotVisible"),
        number("Delayed"),
        dead_letter_arn=target,
        max_receive_count=count,
        source_arns=tuple(sorted(sources)),
        attributes=attributes,
    )


def _redrive_of(attributes: Mapping[str, str]) -> tuple[str | None, int | None]:
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    count = policy.get("maxReceiveCount")
    return policy.get("deadLetterTargetArn"), None if count is None else int(count)


def _binding(subscription: AccountSubscription) -> Binding:
    attributes = subscription.attributes
    is_pending = not subscription.arn.startswith("arn:")
    return Binding(
        subscription.arn,
        subscription.topic_arn,
        subscription.protocol,
        subscription.endpoint,
        attributes.get("RawMessageDelivery") == "true",
        is_pending,
        attributes.get("FilterPolicy"),
        attributes.get("FilterPolicyScope", "MessageAttributes"),
        subscription.dead_letter_arn,
        "The endpoint has not confirmed the subscription." if is_pending else "",
    )


def _checked(binding: Binding, queues: Mapping[str, Mapping[str, str]]) -> Binding:
    """Return the binding, with the problem that its queue's policy causes."""
    queue = queues.get(binding.endpoint)
    if queue is None or binding.problem:
        return binding
    problem = sending_problem(queue.get("Policy"), binding.endpoint, binding.topic_arn)
    return replace(
        binding,
        problem=f"Nothing is delivered: {problem}." if problem else "",
        lacks_permission=problem == NO_STATEMENT,
    )


def _message(raw: Mapping[str, Any]) -> Message:
    source = (raw.get("Attributes") or {}).get("DeadLetterQueueSourceArn")
    return Message(str(raw["MessageId"]), raw, "visible", source_arn=source)


def _has(message: Message, text: str) -> bool:
    parts = [message.body, message.message_id, *message.attributes]
    parts += [str(value.get("StringValue", "")) for value in message.attributes.values()]
    return any(text in part.casefold() for part in parts)


def _common(draft: Draft) -> dict[str, Any]:
    found: dict[str, Any] = {
        "MessageAttributes": dict(draft.attributes),
        "MessageGroupId": draft.group_id,
        "MessageDeduplicationId": draft.deduplication_id,
    }
    return {name: value for name, value in found.items() if value}
