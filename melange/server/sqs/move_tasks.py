"""Message move tasks: dead letters go back to where they came from, or to another queue."""

from __future__ import annotations

import binascii
import json
import logging
import threading
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Literal

from melange.engine.queue import VISIBLE, Copy
from melange.messages import new_uuid
from melange.server.broker import Broker
from melange.server.calls import Call, Parameters
from melange.server.errors import ServiceError, invalid_value, missing_parameter
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue, check_access
from melange.server.sqs.sending import put

if TYPE_CHECKING:
    from melange.server.storage import Storage

logger = logging.getLogger(__name__)

_MAX_RATE = 500
_SHOWN_TASKS = 10
_UNLIMITED_BATCH = 100
_KEPT = (
    "task_id",
    "source_arn",
    "destination_arn",
    "rate",
    "started_at",
    "status",
    "failure_reason",
    "moved",
    "to_move",
)
_QUEUE_IS_GONE = "AWS.SimpleQueueService.NonExistentQueue"
_SOURCE_IS_UNKNOWN = "CouldNotDetermineMessageSource"
"""See https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/troubleshooting-dlq-redrive.html."""


class MoveTask:
    """One task. It moves messages in a thread of its own, and guards what it changes with the broker's lock."""

    def __init__(self, broker: Broker, source: Queue, destination_arn: str | None, rate: int | None) -> None:
        self.task_id = new_uuid()
        self.source_arn = source.arn
        self.destination_arn = destination_arn
        self.rate = rate
        self.started_at = broker.now()
        self.status: Literal["RUNNING", "COMPLETED", "CANCELLING", "CANCELLED", "FAILED"] = "RUNNING"
        self.failure_reason = ""
        self.moved = 0
        self.to_move = source.stored.measure(broker.now()).visible
        self._broker = broker
        self._source = source

    @property
    def handle(self) -> str:
        """The handle by which clients cancel it."""
        return b64encode(json.dumps({"taskId": self.task_id, "sourceArn": self.source_arn}).encode()).decode()

    @property
    def is_active(self) -> bool:
        """True until it has ended."""
        return self.status in {"RUNNING", "CANCELLING"}

    def kept(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {name: getattr(self, name) for name in _KEPT}

    @classmethod
    def restored(cls, broker: Broker, kept: dict[str, Any], later: float) -> MoveTask | None:
        """Return the task of these values, started ``later`` seconds later; None if its queue is gone."""
        source = broker.queues.get(kept["source_arn"])
        if source is None:
            return None
        task = cls(broker, source, kept["destination_arn"], kept["rate"])
        for name in _KEPT:
            setattr(task, name, kept[name])
        task.started_at += later
        return task

    def start(self) -> None:
        """Begin to move messages, unless it has ended; does not block."""
        if not self.is_active:
            return
        threading.Thread(target=self._run, name="melange-move-task", daemon=True).start()

    def _run(self) -> None:
        condition = threading.Condition()
        while True:
            with self._broker.lock:
                if self._broker.is_closed or self._broker.move_tasks.get(self.task_id) is not self:
                    return
                if self.status == "CANCELLING":
                    self.status = "CANCELLED"
                elif self.status == "RUNNING":
                    self._move_some(1 if self.rate else _UNLIMITED_BATCH)
                if self._broker.storage is not None:
                    self._broker.storage.move_tasks_changed()
                    self._commit(self._broker.storage)
                if self.status != "RUNNING":
                    return
            if self.rate:
                with condition:
                    self._broker.clock.wait(condition, 1 / self.rate)

    def _commit(self, storage: Storage) -> None:
        try:
            storage.commit()
        except ServiceError:
            logger.exception("what a message move task did is not kept yet")

    def _move_some(self, count: int) -> None:
        broker, source = self._broker, self._source
        if broker.queues.get(source.arn) is not source:
            self._fail(_QUEUE_IS_GONE)
            return
        for _ in range(count):
            if self.moved >= self.to_move:
                break
            # A task looks at visible messages only, and its look is not a receive.
            source.stored.refresh(broker.now())
            copy = next((copy for copy in source.stored.copies if copy.visible_at == VISIBLE), None)
            if copy is None:
                break
            if not self._move(copy):
                return
        else:
            return
        self.status = "COMPLETED"

    def _move(self, copy: Copy[SentMessage]) -> bool:
        broker, source = self._broker, self._source
        target = (
            broker.queues.get(self.destination_arn)
            if self.destination_arn
            else next((queue for queue in broker.queues.values() if queue.stored is copy.source), None)
        )
        if target is None:
            self._fail(_QUEUE_IS_GONE if self.destination_arn or copy.source else _SOURCE_IS_UNKNOWN)
            return False
        source.stored.remove(copy, broker.now())
        broker.bytes_kept -= copy.message.memory
        # As on AWS, it is a new message: with an id and an age of its own, and never received.
        deduplication_id = copy.deduplication_id if target.is_fifo else None
        _, number = put(target, copy.message, group_id=copy.group_id, deduplication_id=deduplication_id)
        self.moved += 1
        broker.event_log.add("moved", broker.now(), source.arn, copy.origin, None, (target.arn, number))
        return True

    def _fail(self, reason: str) -> None:
        self.status, self.failure_reason = "FAILED", reason


def start_message_move_task(call: Call) -> Parameters:
    broker, parameters = call.broker, call.parameters
    source_arn, destination_arn = parameters.get("SourceArn"), parameters.get("DestinationArn")
    rate = parameters.get("MaxNumberOfMessagesPerSecond")
    if not source_arn:
        raise missing_parameter("SourceArn")
    if rate is not None and not 1 <= rate <= _MAX_RATE:
        raise invalid_value(rate, "MaxNumberOfMessagesPerSecond", "Must be between 1 and 500, if provided.")
    with broker.lock:
        source = _find(call, source_arn, "SourceArn", "StartMessageMoveTask")
        if destination_arn:
            destination = _find(call, destination_arn, "DestinationArn", "StartMessageMoveTask")
            if destination is source:  # a FIFO queue would drop its messages as duplicates
                raise ServiceError(
                    "InvalidParameterValue", "Source and destination queue must not be the same."
                )
            if destination.is_fifo != source.is_fifo:
                raise ServiceError(
                    "InvalidParameterValue", "Source and destination queue must be of the same type."
                )
        if not any(queue.stored.dead_letters is source.stored for queue in broker.queues.values()):
            raise ServiceError(
                "InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue."
            )
        if any(
            task.source_arn == source_arn and task.status == "RUNNING" for task in broker.move_tasks.values()
        ):
            raise ServiceError(
                "InvalidParameterValue",
                "There is already a task running. Only one active task is allowed for a source queue arn at a given "
                "time.",
            )
        task = MoveTask(broker, source, destination_arn, rate)
        _forget_old_tasks(broker, source_arn)
        broker.move_tasks[task.task_id] = task
        task.start()
        return {"TaskHandle": task.handle}


def list_message_move_tasks(call: Call) -> Parameters:
    source_arn, limit = call.parameters.get("SourceArn"), call.parameters.get("MaxResults", 1)
    if not source_arn:
        raise missing_parameter("SourceArn")
    if not 1 <= limit <= _SHOWN_TASKS:
        raise invalid_value(limit, "MaxResults", "Must be between 1 and 10, if provided.")
    with call.broker.lock:
        _find(call, source_arn, "SourceArn", "ListMessageMoveTasks")
        tasks = [task for task in reversed(call.broker.move_tasks.values()) if task.source_arn == source_arn]
        return {"Results": [_describe(task) for task in tasks[:limit]]}


def cancel_message_move_task(call: Call) -> Parameters:
    handle = call.parameters.get("TaskHandle")
    if not handle:
        raise missing_parameter("TaskHandle")
    try:
        named = json.loads(b64decode(handle, validate=True))
        source_arn, task_id = named["sourceArn"], named["taskId"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise ServiceError("InvalidParameterValue", "Value for parameter TaskHandle is invalid.") from None
    with call.broker.lock:
        _find(call, source_arn, "SourceArn", "CancelMessageMoveTask")
        task = call.broker.move_tasks.get(str(task_id))
        if task is None or task.source_arn != source_arn:
            raise ServiceError("ResourceNotFoundException", "Task does not exist.", 404)
        if task.status != "RUNNING":
            raise ServiceError("InvalidParameterValue", "Only active tasks can be cancelled.")
        task.status = "CANCELLING"
        return {"ApproximateNumberOfMessagesMoved": task.moved}


def _forget_old_tasks(broker: Broker, source_arn: str) -> None:
    """Forget tasks of this queue that ended so long ago that a list does not show them."""
    ended = [one for one in broker.move_tasks.values() if one.source_arn == source_arn and not one.is_active]
    for task in ended[: max(0, len(ended) - _SHOWN_TASKS + 1)]:
        del broker.move_tasks[task.task_id]


def _find(call: Call, arn: object, name: str, action: str) -> Queue:
    queue = call.broker.queues.get(str(arn))
    if queue is None:
        raise ServiceError(
            "ResourceNotFoundException",
            f"The resource that you specified for the {name} parameter doesn't exist.",
            404,
        )
    check_access(call, queue, action)
    return queue


def _describe(task: MoveTask) -> Parameters:
    described: Parameters = {
        "Status": task.status,
        "SourceArn": task.source_arn,
        "ApproximateNumberOfMessagesMoved": task.moved,
        "ApproximateNumberOfMessagesToMove": task.to_move,
        "StartedTimestamp": int(task.started_at * 1_000),
    }
    if task.status == "RUNNING":
        described["TaskHandle"] = task.handle
    if task.destination_arn:
        described["DestinationArn"] = task.destination_arn
    if task.rate:
        described["MaxNumberOfMessagesPerSecond"] = task.rate
    if task.failure_reason:
        described["FailureReason"] = task.failure_reason
    return described
