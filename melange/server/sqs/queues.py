"""A queue of SQS: the stored messages, and all that clients can set about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.engine.fifo import FifoQueue
from melange.engine.queue import Copy, StoredQueue
from melange.server.calls import Call
from melange.server.errors import (
    ServiceError,
    invalid_value,
    missing_parameter,
    no_such_queue,
    not_authorized,
)
from melange.server.policies import Access, Policy
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queue_attributes import DEFAULTS, FIFO_DEFAULTS

if TYPE_CHECKING:
    from melange.server.broker import Broker

_MAX_URL_CHARACTERS = 2_000
_PATH = re.compile(r"/(?:.*/)?([0-9]{12})/([A-Za-z0-9_.-]{1,80})/?")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}(?:\.fifo)?")
_HANDLE = re.compile(r"([0-9]{1,18})-([0-9]{1,9})-([0-9a-f]{32})")


_OWNER_ACTIONS = frozenset(
    {
        "AddPermission",
        "CancelMessageMoveTask",
        "DeleteQueue",
        "ListMessageMoveTasks",
        "ListQueueTags",
        "RemovePermission",
        "SetQueueAttributes",
        "StartMessageMoveTask",
        "TagQueue",
        "UntagQueue",
    }
)
"""A policy cannot give these to another account; see
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-overview-of-managing-access.html.
"""


class Attempt(NamedTuple):
    """What a receive with a ReceiveRequestAttemptId has returned, so that it can be returned again."""

    receives: list[tuple[int, int]]
    """The number of each copy, and that of its receive."""
    until: float


class Queue:
    """A queue by its ARN. Guarded by the broker's lock.

    ``attributes`` are those that clients can set, ``stored`` has the messages. Clients settle a message by a handle,
    which names the copy, the receive, and this queue.
    """

    def __init__(
        self, broker: Broker, arn: str, attributes: dict[str, str], tags: dict[str, str] | None = None
    ) -> None:
        self.broker = broker
        self.arn = arn
        _, _, _, self.region, self.account, self.name = arn.split(":")
        self.is_fifo = attributes.get("FifoQueue") == "true"
        self.attributes = DEFAULTS | (FIFO_DEFAULTS if self.is_fifo else {})
        self.tags = dict(tags or {})
        self.created_at = self.modified_at = broker.now()
        self.purged_at = 0.0
        self.attempts: dict[str, Attempt] = {}
        self.stored: StoredQueue[SentMessage] = (
            FifoQueue(broker.numbers, lambda copy: broker.message_id(copy.origin))
            if self.is_fifo
            else broker.disorder.new_queue(self.name, broker.numbers, may_change=True)
        )
        self.stored.on_retired = self._on_retired
        self.seal = broker.new_token()
        self.set_attributes(attributes)
        if isinstance(self.stored, FifoQueue):
            # As recorded on AWS, a later change of this attribute is shown and has no effect.
            self.stored.deduplicates_by_group = self.attributes["DeduplicationScope"] == "messageGroup"

    @property
    def redrive_policy(self) -> dict[str, Any]:
        """The ``deadLetterTargetArn`` and the ``maxReceiveCount``, or nothing."""
        found: dict[str, Any] = json.loads(self.attributes.get("RedrivePolicy", "{}"))
        return found

    def set_attributes(self, changes: dict[str, str]) -> None:
        """Take values that were checked; an empty one removes its attribute."""
        changes = dict(changes)
        if changes.get("KmsMasterKeyId"):
            changes = {"KmsDataKeyReusePeriodSeconds": "300"} | changes | {"SqsManagedSseEnabled": "false"}
        elif "KmsMasterKeyId" in changes or changes.get("SqsManagedSseEnabled") == "true":
            changes |= {"KmsMasterKeyId": "", "KmsDataKeyReusePeriodSeconds": ""}
        for name, value in changes.items():
            if value:
                self.attributes[name] = value
            else:
                self.attributes.pop(name, None)
        attributes, stored = self.attributes, self.stored
        stored.retention_seconds = int(attributes["MessageRetentionPeriod"])
        self.visibility_timeout_seconds = int(attributes["VisibilityTimeout"])
        self.wait_seconds = int(attributes["ReceiveMessageWaitTimeSeconds"])
        self.delay_seconds = int(attributes["DelaySeconds"])
        self.max_message_bytes = int(attributes["MaximumMessageSize"])
        self.hashes_content = attributes.get("ContentBasedDeduplication") == "true"
        self.policy = Policy.parse(attributes["Policy"]) if "Policy" in attributes else None
        """The access policy, or None if only its account may use the queue."""
        self.modified_at = self.broker.now()
        self.find_dead_letter_queue()

    def find_dead_letter_queue(self) -> None:
        """Look again for the queue that the redrive policy names: it may have come or gone."""
        policy = self.redrive_policy
        target = self.broker.queues.get(policy.get("deadLetterTargetArn", ""))
        self.stored.dead_letters = target.stored if target else None
        self._dead_letter_arn = target.arn if target else ""
        self.stored.max_receive_count = policy.get("maxReceiveCount")

    def handle_of(self, copy: Copy[SentMessage]) -> str:
        """Return the handle by which the copy's receiver settles it."""
        return f"{copy.number}-{copy.receive_count}-{self.seal}"

    def note_changes(self, copies: Iterable[Copy[SentMessage]]) -> None:
        """Have changes of copies written before the call is answered."""
        if self.broker.storage is not None:
            for copy in copies:
                self.broker.storage.message_changed(self.arn, copy.number)

    def find_copy(self, handle: str) -> Copy[SentMessage] | None:
        """Return the copy that a handle names; None if it is deleted.

        A standard queue takes every handle that it has given for a message, as SQS does.

        Raises:
            ServiceError: the handle is not one of this queue, or has expired and the queue is FIFO.
        """
        number, receive = self._parse_handle(handle)
        copy = self.stored.copies_by_number.get(number)
        if copy is None or not self.is_fifo:
            return copy
        if copy.receive_count != receive or copy.visible_at <= self.broker.now():
            raise invalid_value(handle, "ReceiptHandle", "The receipt handle has expired.")
        return copy

    def remember_attempt(self, attempt_id: str, copies: list[Copy[SentMessage]], now: float) -> None:
        """Keep what a receive returns for the five minutes in which it can be repeated."""
        for expired in [key for key, attempt in self.attempts.items() if attempt.until <= now]:
            del self.attempts[expired]
        receives = [(copy.number, copy.receive_count) for copy in copies]
        self.attempts[attempt_id] = Attempt(receives, now + DEDUPLICATION_SECONDS)

    def purge(self) -> None:
        """Remove all messages."""
        for copy in self.stored.copies:
            self.broker.bytes_kept -= copy.message.memory
        self.stored.purge()
        self.attempts.clear()

    def _parse_handle(self, handle: str) -> tuple[int, int]:
        """Return the number of the copy and of its receive.

        Raises:
            ServiceError: the handle is not one of this queue.
        """
        found = _HANDLE.fullmatch(handle)
        if found is None or found[3] != self.seal:
            if not handle:
                raise missing_parameter("ReceiptHandle")
            raise ServiceError(
                "ReceiptHandleIsInvalid",
                f'The input receipt handle "{handle}" is not a valid receipt handle.',
                404,
            )
        return int(found[1]), int(found[2])

    def _on_retired(self, copy: Copy[SentMessage], target: StoredQueue[SentMessage] | None) -> None:
        broker = self.broker
        if target is None:
            broker.bytes_kept -= copy.message.memory
            broker.event_log.add("expired", broker.now(), self.arn, copy.origin)
            return
        broker.event_log.counts[self._dead_letter_arn, "sent"] += 1
        details = (self._dead_letter_arn, copy.receive_count, self.stored.max_receive_count)
        broker.event_log.add("dead-lettered", broker.now(), self.arn, copy.origin, None, details)


def queue_arn(region: str, account: str, name: str) -> str:
    """Return the ARN of a queue."""
    return f"arn:aws:sqs:{region}:{account}:{name}"


def find_queue(call: Call, action: str) -> Queue:
    """Return the queue that a call names by its URL, whatever its host, or by a name of the account.

    Raises:
        ServiceError: it does not exist, what was given is not the URL of a queue, or the caller may not do this.
    """
    url = call.parameters.get("QueueUrl")
    if not url:
        raise missing_parameter("QueueUrl")
    named = _queue_named(url) if len(url) <= _MAX_URL_CHARACTERS else None  # what is kept must be bounded
    if named is None:
        raise ServiceError("InvalidAddress", f"The address {url} is not valid for this endpoint.", 404)
    queue = call.broker.queues.get(queue_arn(call.region, named[0] or call.account, named[1]))
    if queue is None:
        raise no_such_queue()
    check_access(call, queue, action)
    return queue


def check_access(call: Call, queue: Queue, action: str) -> None:
    """Raise unless the queue is the caller's, or its policy allows the caller's account the action."""
    if call.account == queue.account:
        return
    access = Access(call.account, f"SQS:{action}", queue.arn)
    if action in _OWNER_ACTIONS or queue.policy is None or not queue.policy.allows(access):
        raise not_authorized("AccessDenied", call.account, access.action, queue.arn)


@lru_cache(maxsize=4_096)
def _queue_named(url: str) -> tuple[str, str] | None:
    """Return the account, or "", and the name that a queue's URL has; None if it is not one."""
    if _NAME.fullmatch(url):
        return "", url
    try:
        found = _PATH.fullmatch(urlsplit(url).path)
    except ValueError:
        found = None
    return None if found is None else (found[1], found[2])
