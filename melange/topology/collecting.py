"""Making the model of a program from its publishers, consumers and outbox routes."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Union, runtime_checkable

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.listener import EventType, resolve_event_types
from melange.consuming.queue_declaration import DEAD_LETTER_RETENTION_SECONDS
from melange.consuming.worker import Worker
from melange.drivers.base import MessagingDriver, NoDeadLetterQueue
from melange.drivers.declarations import add_to_collection, collecting
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.large_events import LargeEvents
from melange.publishing import ExchangeMessagePublisher, QueueMessagePublisher
from melange.topology.model import (
    DeclaredBinding,
    DeclaredListener,
    DeclaredPayloads,
    DeclaredPublisher,
    DeclaredQueue,
    Topology,
    topology_from,
)


class Publication:
    """Says what a program publishes where no publisher or outbox route says it, such as by ``Outbox.publish``.

    Create it beside the code that publishes, for example at import time: ``Publication("orders", OrderPlaced)``.
    """

    def __init__(self, topic: str, *event_types: EventType) -> None:
        """Name the topic and the types; without types they are not known."""
        self.topic = topic
        self.event_types = event_types or None
        add_to_collection(self)


@dataclass(frozen=True, slots=True)
class Collected:
    """A topology and the driver of its program."""

    topology: Topology
    driver: MessagingDriver


@runtime_checkable
class _HasMappings(Protocol):
    """``IntegrationEvents``, which only programs with SQLAlchemy can import."""

    mappings: list[tuple[str, Callable[[Any], Any]]]


def collect(name: str, declare: Callable[[], object]) -> Collected:
    """Call ``declare`` and return the topology of all that it creates and returns. No call reaches the broker.

    Publishers and outbox routes that exist already, in modules imported before, are not seen: return them too.

    Raises:
        ConfigurationError: declarations contradict each other, or nothing was declared.
        NoDriverError: no driver was chosen.
    """
    with collecting() as collected:
        returned = declare()
        return of(name, *collected, returned)


def of(name: str, *declared: object) -> Collected:
    """Return the topology of these objects: consumers, workers, publishers, ``IntegrationEvents``, ``Publication``.

    Lists of them are taken too; other objects are left out.

    Raises:
        ConfigurationError: declarations contradict each other, or nothing was declared.
        NoDriverError: no driver was chosen.
    """
    objects = {id(one): one for one in _flat(declared)}.values()
    consumers = [one for one in objects if isinstance(one, ExchangeMessageConsumer)]
    driver = _driver_of(consumers)
    queues = [queue for consumer in consumers for queue in _queues_of(consumer)]
    publishers = [publisher for one in objects for publisher in _publishers_of(one)]
    if not queues and not publishers:
        raise ConfigurationError(
            "nothing was declared: name a function that creates consumers and publishers, or a module with outbox routes"
        )
    return Collected(topology_from(name, driver.prefix, queues, publishers, _payloads_of(driver)), driver)


def _payloads_of(driver: MessagingDriver) -> Iterator[DeclaredPayloads]:
    if not isinstance(driver, LargeEvents):
        return
    from melange.large_events.s3 import S3Store  # noqa: PLC0415 - it imports boto3

    if isinstance(driver.store, S3Store):  # another store has no bucket that an export could describe
        yield DeclaredPayloads(driver.store.bucket, driver.payload_prefix, driver.payload_days)


def _flat(declared: Iterable[object]) -> Iterator[object]:
    for one in declared:
        if isinstance(one, (list, tuple, set, frozenset)):
            yield from _flat(one)
        elif isinstance(one, Worker):
            yield from one.consumers
        else:
            yield one


def _driver_of(consumers: Sequence[ExchangeMessageConsumer]) -> MessagingDriver:
    drivers = {
        (type(one.driver), one.driver.prefix, _broker_of(one.driver), *_payloads_of(one.driver)): one.driver
        for one in consumers
    }
    if not drivers:
        return DriverManager.instance().get_driver()
    if len(drivers) > 1:
        raise ConfigurationError(
            "the consumers use different drivers, brokers or prefixes, and a topology has one: collect them one by one"
        )
    return next(iter(drivers.values()))


def _broker_of(driver: MessagingDriver) -> Hashable:
    """Return what tells the driver's broker from others: drivers that do not say have a broker each."""
    broker: Hashable = getattr(driver, "broker", id(driver))  # ``LargeEvents`` passes on what its driver says
    return broker


def _queues_of(consumer: ExchangeMessageConsumer) -> Iterator[DeclaredQueue]:
    declaration = consumer.declaration
    name, options = declaration.queue_name, declaration.options
    dead_letters = options.dead_letter_queue_name
    if isinstance(dead_letters, NoDeadLetterQueue) or declaration.names_an_address:
        dead_letter_queue = None
    else:
        dead_letter_queue = dead_letters or declaration.default_dead_letter_queue_name
    yield DeclaredQueue(
        name=name,
        bindings=tuple(DeclaredBinding(topic, declaration.event_filter) for topic in declaration.topic_names),
        listeners=tuple(
            DeclaredListener(
                one.name,
                tuple(sorted(one.event_type_names)),
                consumer.time_limits.of_listener(one),
            )
            for one in consumer.subscriptions.all
        ),
        dead_letter_queue=dead_letter_queue,
        keeps_dead_letter_queue=dead_letters is None,
        max_receive_count=declaration.wanted_receives if dead_letter_queue else None,
        max_attempts=declaration.max_attempts,
        visibility_timeout_seconds=options.visibility_timeout_seconds,
        tags=dict(options.tags or {}),
    )
    if dead_letter_queue is not None:
        yield DeclaredQueue(
            name=dead_letter_queue,
            retention_seconds=DEAD_LETTER_RETENTION_SECONDS,
            tags=dict(options.tags or {}),
            dead_letters_of=(name,),
        )


def _publishers_of(declared: object) -> Iterator[DeclaredPublisher]:
    if isinstance(declared, ExchangeMessagePublisher):
        yield DeclaredPublisher(declared.topic_name, "publisher", _names(declared.event_types))
    elif isinstance(declared, QueueMessagePublisher):
        yield DeclaredPublisher(declared.queue_name, "queue publisher")
    elif isinstance(declared, Publication):
        yield DeclaredPublisher(declared.topic, "outbox", _names(declared.event_types))
    elif isinstance(declared, _HasMappings):
        for topic, mapping in declared.mappings:
            yield DeclaredPublisher(topic, "outbox", _returned_types(mapping))


def _names(event_types: Sequence[EventType] | None) -> tuple[str, ...] | None:
    if event_types is None:
        return None
    names, _ = resolve_event_types("event_types", event_types)
    return tuple(sorted(names))


def _returned_types(mapping: Callable[[Any], Any]) -> tuple[str, ...] | None:
    """Return the names of the event classes in the return annotation; None if it has others."""
    try:
        returned = typing.get_type_hints(mapping).get("return")
    except (NameError, TypeError, AttributeError):  # a name that exists only for type checkers
        return None
    is_union = typing.get_origin(returned) in (Union, types.UnionType)
    alternatives: Sequence[object] = typing.get_args(returned) if is_union else [returned]
    kinds = [one for one in alternatives if one is not types.NoneType]
    classes = [one for one in kinds if isinstance(one, type) and issubclass(one, EventMessage)]
    if not classes or len(classes) < len(kinds):
        return None
    return tuple(sorted(one.event_type_name for one in classes))
