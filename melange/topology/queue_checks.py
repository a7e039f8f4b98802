"""The doctor's checks of one queue."""

from __future__ import annotations

from collections.abc import Iterator

from melange.drivers.inspection import ObservedQueue
from melange.errors import AccessDeniedError, DriverError
from melange.topology.changes import in_words
from melange.topology.findings import APPLY, Finding
from melange.topology.model import DeclaredQueue
from melange.topology.observing import Observation

LAMBDA_VISIBILITY_FACTOR = 6
"""https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""


def findings_of_queue(queue: DeclaredQueue, observed: Observation) -> Iterator[Finding]:
    """Yield what is wrong with a queue: visibility, encryption, receive count, retention of its dead letters."""
    found = observed.queues[queue.name]
    yield from _visibility(queue, found)
    if found is None:
        return
    yield from _encryption(queue, found, observed)
    yield from _receive_count(queue, found)
    dead_letters = _dead_letter_queue(found, observed)
    if dead_letters is not None and dead_letters.retention_seconds <= found.retention_seconds:
        yield Finding(
            "dead-letter-retention",
            "error",
            f"queue {dead_letters.name}",
            f"it keeps messages for {in_words(dead_letters.retention_seconds)}, and {queue.name} for "
            f"{in_words(found.retention_seconds)}",
            "On a standard queue the age of a dead letter counts from its first sending: old ones vanish at once.",
            APPLY,
        )


def _dead_letter_queue(queue: ObservedQueue, observed: Observation) -> ObservedQueue | None:
    if queue.dead_letter_queue is None:
        return None
    known = (
        one for one in observed.queues.values() if one is not None and one.arn == queue.dead_letter_queue
    )
    return next(known, None) or observed.inspection.queue(queue.dead_letter_queue)


def _receive_count(queue: DeclaredQueue, found: ObservedQueue) -> Iterator[Finding]:
    count, least = found.max_receive_count, queue.max_receive_count
    if count is None or least is None or count >= least or queue.max_attempts is None:
        return
    yield Finding(
        "receive-count",
        "error" if count <= queue.max_attempts else "warning",
        f"queue {queue.name}",
        f"maxReceiveCount is {count}, with max_attempts={queue.max_attempts} it should be {least} or more",
        "The broker dead-letters messages before all attempts are made: deployments and waits count as receives too.",
        APPLY,
    )


def _visibility(queue: DeclaredQueue, found: ObservedQueue | None) -> Iterator[Finding]:
    limits = {one.timeout_seconds: one.name for one in queue.listeners if one.timeout_seconds is not None}
    if not limits or queue.visibility_timeout_seconds is None:
        return
    longest = max(limits)
    if queue.visibility_timeout_seconds <= longest:
        yield Finding(
            "visibility",
            "warning",
            f"queue {queue.name}",
            f"the visibility timeout is {queue.visibility_timeout_seconds} s, and listener {limits[longest]} may run "
            f"for {longest:g} s",
            "While it runs the lease has to be renewed: if the process stalls, another one receives the message too.",
            f"QueueOptions(visibility_timeout_seconds={int(longest) + 1}) or more in the program",
        )
    if found is not None and found.policy is not None and found.visibility_timeout_seconds <= longest:
        wanted = int(longest) * LAMBDA_VISIBILITY_FACTOR
        yield Finding(
            "visibility",
            "warning",
            f"queue {queue.name}",
            f"the queue's own visibility timeout is {found.visibility_timeout_seconds} s, and listener "
            f"{limits[longest]} may run for {longest:g} s",
            "melange says its own timeout at each receive; AWS Lambda and other programs use the queue's.",
            "With Lambda: aws sqs set-queue-attributes "
            f"--queue-url {found.address} --attributes VisibilityTimeout={max(wanted, 30)}",
        )


def _encryption(queue: DeclaredQueue, found: ObservedQueue, observed: Observation) -> Iterator[Finding]:
    if not queue.bindings:
        return
    try:
        problem = observed.inspection.key_problem(found)
    except AccessDeniedError as error:
        yield Finding(
            "encryption",
            "warning",
            f"queue {queue.name}",
            "the policy of its key could not be read",
            f"It may keep SNS out. {error}",
            "allow kms:DescribeKey and kms:GetKeyPolicy on the key, and run the doctor again",
        )
        return
    except DriverError as error:
        problem = str(error)
    if problem:
        yield Finding(
            "encryption",
            "error",
            f"queue {queue.name}",
            problem,
            "SNS cannot encrypt its messages for the queue, and drops them.",
            "encrypt with a customer key that allows sns.amazonaws.com kms:GenerateDataKey* and kms:Decrypt: "
            "see docs/aws.md, Encryption; then use_driver(..., kms_master_key_id=...) and " + APPLY,
        )
