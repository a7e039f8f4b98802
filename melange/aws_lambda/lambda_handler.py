"""The handler of a Lambda function: the records of an invocation, read as deliveries, and a consumer's listeners on them."""

from __future__ import annotations

import base64
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from melange.clock import Clock
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import Outcome
from melange.consuming.poison_messages import Suspects
from melange.drivers.base import Capabilities, MessagingDriver
from melange.errors import ConfigurationError, DriverError, Failure, MelangeError, is_number, shortened
from melange.messages import Delivery

if TYPE_CHECKING:
    from asyncio import Runner

logger = logging.getLogger(__name__)

SQS = "aws:sqs"
SNS = "aws:sns"


class LambdaContext(Protocol):
    """What the handler reads of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the time that is left until Lambda ends the process."""
        ...


class BatchItemFailure(TypedDict):
    """A record that comes back."""

    itemIdentifier: str


class BatchResponse(TypedDict):
    """What Lambda is answered: the failed records. It deletes the others."""

    batchItemFailures: list[BatchItemFailure]


class InvocationFailed(MelangeError):
    """Records of a topic were not handled: Lambda invokes the function again, and then its on-failure destination."""


def handler(*consumers: ExchangeMessageConsumer, grace_seconds: float = 2.0) -> LambdaHandler:
    """Return the handler of a Lambda function, to be called with each event and context.

    It runs the listeners of the consumer with the guarantees of a worker. The function needs an event source mapping with
    ``ReportBatchItemFailures`` for the consumer's queue, or a subscription to its topic.

    Args:
        consumers: one for each queue that the function is connected to.
        grace_seconds: how long before the end of Lambda's time no record is begun any more, and running listeners are
            given up: the rest of the batch is then reported as failed, and not the finished part too.

    Raises:
        ConfigurationError: no consumer, two for one queue, or ``grace_seconds`` is out of bounds.
    """
    return LambdaHandler(consumers, grace_seconds)


class LambdaHandler:
    """Handles invocations, one at a time; see ``handler``."""

    def __init__(self, consumers: Sequence[ExchangeMessageConsumer], grace_seconds: float) -> None:
        for consumer in consumers:
            if not isinstance(consumer, ExchangeMessageConsumer):
                raise ConfigurationError(f"a Lambda handler takes consumers, not {consumer!r}")
        self._consumers = {
            f"{consumer.driver.prefix}{consumer.queue.name}": consumer for consumer in consumers
        }
        if not consumers or len(self._consumers) < len(consumers):
            raise ConfigurationError("a Lambda handler needs at least one consumer, and each its own queue")
        if not is_number(grace_seconds) or not 0 <= grace_seconds <= 60:
            raise ConfigurationError(f"grace_seconds must be from 0 to 60, not {grace_seconds!r}")
        self._grace_seconds = grace_seconds
        self._runner: Runner | None = None

    @property
    def consumers(self) -> tuple[ExchangeMessageConsumer, ...]:
        """The consumers that it was made with."""
        return tuple(self._consumers.values())

    def __call__(self, event: Any, context: LambdaContext | None = None) -> BatchResponse:
        """Handle one event; return the failed records.

        For SQS Lambda deletes the others. For SNS there is none: a failure raises.

        Raises:
            InvocationFailed: a record of SNS was not handled.
            ConfigurationError: the event is not one of SQS or SNS, or comes from a queue without a consumer.
        """
        source, records = _records_of(event)
        if source == SNS:
            self._handle_sns(records, context)
            return {"batchItemFailures": []}
        fair_seconds = _fair_share(context, self._grace_seconds)
        invocations: dict[str, _Invocation] = {}
        failed: list[BatchItemFailure] = []
        for record in records:
            name = _queue_name_of(record)
            if name not in invocations:
                invocations[name] = _Invocation(
                    self._consumer_of(name), context, self._grace_seconds, fair_seconds, self._run_coroutine
                )
            if not invocations[name].handle_record(record):
                failed.append({"itemIdentifier": record["messageId"]})
        return {"batchItemFailures": failed}

    def _handle_sns(self, records: Sequence[Mapping[str, Any]], context: LambdaContext | None) -> None:
        if len(self._consumers) > 1:
            raise ConfigurationError(
                "a function that is subscribed to topics takes one consumer: make a handler for each function"
            )
        (consumer,) = self._consumers.values()
        invocation = _Invocation(
            consumer,
            context,
            self._grace_seconds,
            _fair_share(context, self._grace_seconds),
            self._run_coroutine,
            is_queue=False,
        )
        failed = [
            record["Sns"]["MessageId"]
            for record in records
            if not invocation.handle(invocation.delivery(_from_sns(record)))
        ]
        if failed:
            raise InvocationFailed(
                f"{len(failed)} of {len(records)} records of SNS were not handled: {', '.join(failed)}; see the log. "
                "Lambda invokes the function again"
            )

    def _consumer_of(self, name: str) -> ExchangeMessageConsumer:
        consumer = self._consumers.get(name)
        if consumer is None:
            raise ConfigurationError(
                f"the function received a record of queue {name}, and its handler is for {', '.join(self._consumers)}: "
                "make the handler with a consumer of that queue too"
            )
        return consumer

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop that all invocations share, so that their connections may stay open."""
        # They bring asyncio, and functions with plain listeners start faster without it.
        import asyncio  # noqa: PLC0415

        from melange.consuming.event_loop import contained  # noqa: PLC0415

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(contained(coroutine), context=contextvars.copy_context())


def _fair_share(context: LambdaContext | None, grace_seconds: float) -> float:
    """Return half of an invocation's time: a run that got less, because others ran before it, is not an attempt."""
    if context is None:
        return 0.0
    return (context.get_remaining_time_in_millis() / 1000 - grace_seconds) / 2


class _Invocation:
    """The records of one consumer in one invocation."""

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        context: LambdaContext | None,
        grace_seconds: float,
        fair_seconds: float,
        run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any],
        *,
        is_queue: bool = True,
    ) -> None:
        consumer.require_listeners()
        self._consumer = consumer
        self._stopped_groups: set[str] = set()
        self._clock = consumer.driver.clock
        seconds = float(consumer.options.visibility_timeout_seconds)
        if context is not None:
            seconds = context.get_remaining_time_in_millis() / 1000
        ends_at = self._clock.monotonic() + seconds
        self._cutoff = ends_at - grace_seconds
        self._deadline = ends_at - grace_seconds / 2  # after it nothing can be settled for certain
        self._fair_seconds = fair_seconds
        # Nothing is renewed: the queue's visibility timeout outlasts the invocation.
        keeper = LeaseKeeper(consumer.driver, consumer.options.visibility_timeout_seconds, consumer.store)
        self._settler = consumer.settler(
            keeper, Suspects(), _EventSource(consumer.driver) if is_queue else _Subscription(consumer.driver)
        )
        consumer.use_event_loop(run_coroutine)

    @property
    def is_over(self) -> bool:
        """True if no record should begin any more."""
        return self._clock.monotonic() >= self._cutoff

    def handle_record(self, record: Mapping[str, Any]) -> bool:
        """Handle a record of SQS, if there is time; return True if its message may be deleted.

        The rest of a FIFO group waits for a message of it that comes back, or the order would be lost.
        """
        group = None
        if self._consumer.queue.is_fifo:
            group = str((record.get("attributes") or {}).get("MessageGroupId", ""))
        is_gone = False
        try:
            delivery = self.delivery(_from_sqs(record))
        except DriverError as error:
            logger.warning("a record of queue %r comes back later: %s", self._consumer.queue.name, error)
        else:
            if group in self._stopped_groups or self.is_over:
                self.release(delivery)
            else:
                is_gone = self.handle(delivery)
        if not is_gone and group is not None:
            self._stopped_groups.add(group)
        return is_gone

    def delivery(self, raw: Mapping[str, Any]) -> Delivery:
        """Return a record as a delivery; its lease ends with the invocation."""
        # It imports boto3, unless the driver has done so.
        from melange.drivers.aws.wire import delivery_from  # noqa: PLC0415 - see above

        now = self._clock.monotonic()
        delivery = delivery_from(raw, self._consumer.queue, now, 0)._replace(deadline=self._deadline)
        return self._consumer.driver.adopt(delivery)

    def handle(self, delivery: Delivery) -> bool:
        """Run the listeners, and settle; return True if the message may be deleted."""
        lease = Lease(delivery, self._clock, cutoff=self._cutoff)
        lease.fair_seconds = self._fair_seconds
        settlement = self._settler.settle([(lease, self._outcome(lease))])
        return settlement.gone == 1

    def release(self, delivery: Delivery) -> None:
        """Make a message visible again that was not begun."""
        self._settler.defer([(Lease(delivery, self._clock), 0)])

    def _outcome(self, lease: Lease) -> Outcome:
        processor = self._consumer.processor
        try:
            return processor.process(lease)
        except BaseException as error:  # SystemExit would fail the records that are finished
            return processor.failures.of_processing(lease, error)


class _EventSource:
    """The broker of an event source mapping: Lambda deletes what is not reported as failed."""

    def __init__(self, driver: MessagingDriver) -> None:
        self._driver = driver

    @property
    def clock(self) -> Clock:
        return self._driver.clock

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        return []

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        return self._driver.defer(deliveries, seconds)

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        self._driver.dead_letter(delivery, note)


class _Subscription(_EventSource):
    """The broker of a function that is subscribed to a topic: there is nothing to settle."""

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        return []


# The records of an event, in the form in which SQS itself returns messages:
# https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html#example-standard-queue-message-event and
# https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html


def _records_of(event: object) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the source of an event, ``SQS`` or ``SNS``, and its records.

    Raises:
        ConfigurationError: it is another event.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list) and all(isinstance(record, dict) for record in records):
        sources = {record.get("eventSource") or record.get("EventSource") for record in records}
        if not records:
            return SQS, records
        if sources in ({SQS}, {SNS}):
            return sources.pop(), records
    found = f"keys {shortened(sorted(map(str, event)))}" if isinstance(event, dict) else type(event).__name__
    raise ConfigurationError(
        f"this function was invoked with something else than records of SQS or SNS ({found}): connect it to a queue with an "
        "event source mapping, or to a topic with a subscription. Events of EventBridge and S3 reach it through a queue"
    )


def _queue_name_of(record: Mapping[str, Any]) -> str:
    """Return the name of the queue that a record of SQS comes from."""
    return str(record["eventSourceARN"]).rpartition(":")[2]


def _from_sqs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of SQS as ``ReceiveMessage`` would have returned its message."""
    return {
        "MessageId": record["messageId"],
        "ReceiptHandle": record["receiptHandle"],
        "Body": record["body"],
        "Attributes": record.get("attributes") or {},
        "MessageAttributes": {
            name: _attribute(attribute) for name, attribute in (record.get("messageAttributes") or {}).items()
        },
    }


def _from_sns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of SNS as ``ReceiveMessage`` would have returned it from a queue with raw delivery."""
    notification = record["Sns"]
    return {
        "MessageId": notification["MessageId"],
        "ReceiptHandle": "",
        "Body": notification["Message"],
        "Attributes": {},
        "MessageAttributes": {
            name: {"DataType": attribute.get("Type"), "StringValue": attribute.get("Value")}
            for name, attribute in (notification.get("MessageAttributes") or {}).items()
        },
    }


def _attribute(attribute: Mapping[str, Any]) -> dict[str, Any]:
    raw = {"DataType": attribute.get("dataType")}
    if attribute.get("stringValue") is not None:
        raw["StringValue"] = attribute["stringValue"]
    elif attribute.get("binaryValue") is not None:
        raw["BinaryValue"] = base64.b64decode(attribute["binaryValue"])
    return raw
