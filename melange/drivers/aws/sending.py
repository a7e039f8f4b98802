"""Publishing and sending: checked as a whole first, then sent batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from melange.drivers.aws.batching import run_batch, split_by_size
from melange.drivers.aws.calls import Answer, BrokerCalls
from melange.drivers.aws.clients import Clients
from melange.drivers.aws.errors import error_for_sent_entry
from melange.drivers.aws.wire import Entry, publish_entry, send_entry
from melange.drivers.base import Queue, Topic
from melange.drivers.limits import MAX_DELAY_SECONDS, check_message, check_whole_seconds
from melange.errors import DriverConnectionError, DriverError, InvalidMessageError, MelangeError
from melange.messages import Failure, Message


class Sender:
    """Hands messages to topics and queues. Thread-safe."""

    def __init__(self, calls: BrokerCalls, clients: Clients) -> None:
        self._calls = calls
        self._clients = clients

    def publish(
        self, topic: Topic, messages: Sequence[Message], *, content_based_deduplication: bool
    ) -> list[Failure[Message]]:
        """See ``MessagingDriver.publish``."""

        def call(entries: list[Entry]) -> Answer:
            return self._calls(
                self._clients.sns.publish_batch,
                "sns:Publish",
                topic.name,
                refusal=InvalidMessageError,
                TopicArn=topic.address,
                PublishBatchRequestEntries=entries,
            )

        self._check(topic, messages, content_based_deduplication)
        return self._send_all(topic, messages, publish_entry, call, "sns:Publish")

    def send(
        self,
        queue: Queue,
        messages: Sequence[Message],
        delay_seconds: int,
        *,
        content_based_deduplication: bool,
    ) -> list[Failure[Message]]:
        """See ``MessagingDriver.send``."""

        def call(entries: list[Entry]) -> Answer:
            return self._calls(
                self._clients.sqs.send_message_batch,
                "sqs:SendMessage",
                queue.name,
                refusal=InvalidMessageError,
                QueueUrl=queue.address,
                Entries=entries,
            )

        def entry_of(message: Message) -> Entry:
            return send_entry(message, delay_seconds)

        check_whole_seconds("delay_seconds", delay_seconds, 0, MAX_DELAY_SECONDS)
        if delay_seconds and queue.is_fifo:
            raise InvalidMessageError(f"queue {queue.name!r} is FIFO and knows no delay per message")
        self._check(queue, messages, content_based_deduplication)
        return self._send_all(queue, messages, entry_of, call, "sqs:SendMessage")

    def _check(self, target: Topic | Queue, messages: Sequence[Message], content_based: bool) -> None:
        self._calls.check_open()
        for message in messages:
            check_message(
                message,
                max_bytes=target.max_message_bytes,
                is_fifo=target.is_fifo,
                content_based_deduplication=content_based,
            )

    def _send_all(
        self,
        target: Topic | Queue,
        messages: Sequence[Message],
        entry_of: Callable[[Message], Entry],
        call: Callable[[list[Entry]], Answer],
        action: str,
    ) -> list[Failure[Message]]:
        def error_of(entry: Entry) -> MelangeError:
            return error_for_sent_entry(entry, action, target.name)

        def run(batch: Sequence[Message]) -> list[Failure[Message]]:
            return run_batch(batch, entry_of, call, error_of, self._calls.pause)

        batches = list(split_by_size(messages, target.max_message_bytes))
        return run_in_turn(batches, run, in_order=target.is_fifo)


def run_in_turn(
    batches: Sequence[Sequence[Message]],
    run: Callable[[Sequence[Message]], list[Failure[Message]]],
    *,
    in_order: bool,
) -> list[Failure[Message]]:
    """Send batch after batch; what could not be sent is reported, never passed over.

    Stops where going on would break the order (``in_order``), or where the broker is out of reach: each
    further batch would wait through the same retries in vain.

    Raises:
        MelangeError: the broker refused the first call as a whole, and nothing has happened.
    """
    failures: list[Failure[Message]] = []
    for index, batch in enumerate(batches):
        try:
            failed = run(batch)
        except MelangeError as error:
            if index == 0:
                raise
            failed = [Failure(message, error) for message in batch]
        failures += failed
        if failed and (in_order or any(isinstance(f.error, DriverConnectionError) for f in failed)):
            not_sent = DriverError(
                f"not sent, because an earlier message of the call failed: {failed[0].error}"
            )
            failures += [Failure(message, not_sent) for rest in batches[index + 1 :] for message in rest]
            break
    return failures
