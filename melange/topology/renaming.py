"""Moving the messages of a queue's old name to its new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from melange.drivers.base import BrokerAdministration, MessagingDriver
from melange.drivers.dead_letters import NO_NOTES, FoundDeadLetter
from melange.drivers.inspection import BrokerInspection, ObservedQueue
from melange.errors import ConfigurationError, DriverError
from melange.messages import Queue
from melange.operations.model import note_for
from melange.topology.model import DeclaredQueue, Topology
from melange.topology.plan import Change

NAME_TAKES = "the name is free again after 60 seconds on AWS"

_LEASE_SECONDS = 60


def renames(
    topology: Topology, driver: MessagingDriver, inspection: BrokerInspection, renamed: Mapping[str, str]
) -> Iterator[Change]:
    """Yield a change for each old queue that exists, and for its dead-letter queue.

    ``renamed`` has the new names by the old ones.

    Raises:
        ConfigurationError: a new name is not declared, or an old one is.
    """
    for old_name, new_name in renamed.items():
        new = topology.queue(new_name)
        if new is None:
            raise ConfigurationError(
                f"the program declares no queue {new_name!r}: the new name comes second, OLD=NEW"
            )
        if topology.queue(old_name) is not None:
            raise ConfigurationError(
                f"the program still declares the queue {old_name!r}: it cannot be an old name"
            )
        old = inspection.queue(old_name)
        if old is None:
            continue
        yield from _of_dead_letters(topology, driver, inspection, old, new)
        yield _move(driver, inspection, old, new)


def moved_with(inspection: BrokerInspection, renamed: Mapping[str, str]) -> set[str]:
    """Return the ARNs of the old queues and of their dead-letter queues."""
    old = [queue for name in renamed if (queue := inspection.queue(name)) is not None]
    return {arn for queue in old for arn in (queue.arn, queue.dead_letter_queue) if arn is not None}


def _of_dead_letters(
    topology: Topology,
    driver: MessagingDriver,
    inspection: BrokerInspection,
    old: ObservedQueue,
    new: DeclaredQueue,
) -> Iterator[Change]:
    if old.dead_letter_queue is None or new.dead_letter_queue is None:
        return
    dead_letters, target = inspection.queue(old.dead_letter_queue), topology.queue(new.dead_letter_queue)
    if dead_letters is not None and target is not None and topology.queue(dead_letters.name) is None:
        yield _move(driver, inspection, dead_letters, target, dead_letters_of=new.name)


def _move(
    driver: MessagingDriver,
    inspection: BrokerInspection,
    old: ObservedQueue,
    new: DeclaredQueue,
    *,
    dead_letters_of: str = "",
) -> Change:
    if not dead_letters_of and len(new.dead_letters_of) == 1:  # the old one is a dead-letter queue as well
        (dead_letters_of,) = new.dead_letters_of
    return Change(
        "move",
        "queue",
        f"{old.name} -> {new.name}",
        takes=NAME_TAKES,
        message_count=old.message_count,
        dead_letters_of=dead_letters_of,
        carry_out=partial(_move_and_remove, driver, inspection, old, new.name, dead_letters_of),
    )


def _move_and_remove(
    driver: MessagingDriver,
    inspection: BrokerInspection,
    old: ObservedQueue,
    new_name: str,
    dead_letters_of: str,
) -> None:
    """Unsubscribe the old queue, send its messages on to the new one, and remove it when it is empty.

    It can be interrupted: messages are acknowledged after they were accepted. Each keeps its id, so that the new queue's
    listeners recognise one that they have had from a topic already. Dead letters keep their notes, with the new name of
    their queue, so that they can be retried there.
    """
    for subscription in inspection.subscriptions_into(old):
        inspection.unsubscribe(subscription)
    source, target = Queue(old.name, old.address, old.name.endswith(".fifo")), driver.get_queue(new_name)
    _send_on(driver, source, target, dead_letters_of)
    left = inspection.queue(old.address)
    if left is not None and left.message_count:
        raise DriverError(
            f"queue {old.name} still holds about {left.message_count:,} messages, for example in flight at another consumer: stop "
            "the consumers of the old name, and apply again"
        )
    if not isinstance(driver, BrokerAdministration):
        raise ConfigurationError(f"{type(driver).__name__} cannot delete queues: remove {old.name} by hand")
    driver.delete_queue(source)


def _send_on(driver: MessagingDriver, source: Queue, target: Queue, dead_letters_of: str) -> None:
    access = driver.dead_letter_access
    if access is None:
        raise ConfigurationError(f"{type(driver).__name__} cannot send messages on as they were received")
    while found := access.browse(source, visibility_timeout_seconds=_LEASE_SECONDS):
        deliveries = [one.delivery for one in found]
        failures = access.resend(deliveries, target, notes=_notes_of(found, dead_letters_of))
        failed = {failure.item.receipt_handle for failure in failures}
        driver.acknowledge([one for one in deliveries if one.receipt_handle not in failed])
        if failures:
            driver.defer([failure.item for failure in failures], 0)
            raise failures[0].error


def _notes_of(found: Sequence[FoundDeadLetter], dead_letters_of: str) -> Mapping[str, str]:
    if not dead_letters_of:
        return NO_NOTES
    notes = {one.delivery.receipt_handle: note_for(one, dead_letters_of) for one in found}
    return {handle: note for handle, note in notes.items() if note is not None}
