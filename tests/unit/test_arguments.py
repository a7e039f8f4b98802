"""Arguments of a wrong kind are refused where they are given, with a typed error that names them."""

from __future__ import annotations

import inspect
import math

import pytest
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.orm import sessionmaker

import melange
from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    InvalidMessageError,
    MemoryDeduplicationStore,
    QueueMessagePublisher,
    QueueOptions,
    Retry,
    Worker,
)
from melange.aws_lambda import handler
from melange.drivers.memory import InMemoryDriver
from melange.drivers.registry import DriverManager
from melange.errors import EncodeError, PartialFailure
from melange.flow import CircuitBreaker, RateLimit
from melange.large_events import LargeEvents, MemoryStore
from melange.outbox import Inbox, OutboxRelay

EVENT = {"event_type_name": "ProductAdded"}
NO_NUMBERS = ["5", None, math.nan, True]


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def consumer(driver):
    consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
    consumer.listener("ProductAdded")(print)
    return consumer


@pytest.fixture
def engine():
    return create_engine("sqlite://", poolclass=StaticPool)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1])
@pytest.mark.parametrize("option", ["give_up_seconds", "grace_seconds", "concurrency"])
def test_a_worker_refuses_it(consumer, option, value) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} must be"):
        Worker(consumer, **{option: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"concurrency": 10**9}, "concurrency must be at most 120,000"),
        ({"weights": ["stock"]}, "weights= takes a dict"),
        ({"weights": 5}, "weights= takes a dict"),
    ],
)
def test_a_worker_refuses_options_of_another_kind(consumer, options, named) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Worker(consumer, **options)


@pytest.mark.parametrize("headers", ["a", 5, ["a"]], ids=repr)
def test_headers_that_are_not_a_dict_are_refused(driver, headers) -> None:
    with pytest.raises(InvalidMessageError, match="headers= takes a dict"):
        ExchangeMessagePublisher("products", driver).publish(EVENT, headers=headers)


@pytest.mark.parametrize("events", [None, 5])
def test_a_batch_that_is_not_several_events_is_refused(driver, events) -> None:
    with pytest.raises(EncodeError, match="a batch takes a list"):
        ExchangeMessagePublisher("products", driver).publish_batch(events)


@pytest.mark.parametrize("publisher", [ExchangeMessagePublisher, QueueMessagePublisher])
@pytest.mark.parametrize("driver", ["memory", 5, InMemoryDriver], ids=["text", "number", "class"])
def test_a_driver_that_is_none_is_refused_by_publishers(publisher, driver) -> None:
    with pytest.raises(ConfigurationError, match="is not a MessagingDriver"):
        publisher("products", driver)


@pytest.mark.parametrize("name", [5, b"listen"])
def test_the_name_of_a_listener_is_text(consumer, name) -> None:
    with pytest.raises(ConfigurationError, match="the name of a listener must be text"):
        consumer.listener("ProductAdded", name=name)(print)


@pytest.mark.parametrize("function", [5, None, "insert"])
def test_a_batch_listener_is_a_function(consumer, function) -> None:
    with pytest.raises(ConfigurationError, match="a batch listener is a function"):
        consumer.batch_listener("ProductAdded")(function)


@pytest.mark.parametrize("seconds", [*NO_NUMBERS, -1])
def test_the_wait_of_a_batch_is_a_number(consumer, seconds) -> None:
    with pytest.raises(ConfigurationError, match="max_seconds must be"):
        consumer.batch_listener("ProductAdded", max_seconds=seconds)(print)


@pytest.mark.parametrize("tags", [5, ["team"], {"team": 1}, {"": "stock"}], ids=repr)
def test_tags_are_texts(tags) -> None:
    with pytest.raises(ConfigurationError, match="tags= takes a dict"):
        QueueOptions(tags=tags)


def test_what_finds_the_type_of_a_message_is_a_function() -> None:
    with pytest.raises(ConfigurationError, match="event_type= takes a function"):
        QueueOptions(event_type="body.type")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0])
def test_limits_and_stores_refuse_what_is_no_number(engine, consumer, value) -> None:
    makers = [
        lambda: RateLimit(value),
        lambda: CircuitBreaker(share=value),
        lambda: CircuitBreaker(first_pause_seconds=value),
        lambda: MemoryDeduplicationStore(retention_seconds=value),
        lambda: MemoryDeduplicationStore(max_marks=value),
        lambda: Inbox(sessionmaker(engine), retention_seconds=value),
        lambda: OutboxRelay(engine, poll_seconds=value),
    ]
    for make in makers:
        with pytest.raises(ConfigurationError):
            make()


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_the_grace_of_a_lambda_function_is_a_number(consumer, value) -> None:
    with pytest.raises(ConfigurationError, match="grace_seconds must be"):
        handler(consumer, grace_seconds=value)


CALLS = {
    "no driver": lambda driver: LargeEvents(5, MemoryStore()),
    "no store": lambda driver: LargeEvents(driver, 5),
    "no threshold": lambda driver: LargeEvents(driver, MemoryStore(), threshold_bytes="5"),
    "negative threshold": lambda driver: LargeEvents(driver, MemoryStore(), threshold_bytes=-1),
    "nothing allowed": lambda driver: LargeEvents(driver, MemoryStore(), max_bytes=0),
    "no name": lambda driver: DriverManager().use_driver(driver_name=5),
    "no batch": lambda driver: OutboxRelay(create_engine("sqlite://"), driver, batch_size="5"),
    "no driver of a relay": lambda driver: OutboxRelay(create_engine("sqlite://"), 5),
    "no filter": lambda driver: ExchangeMessageConsumer("stock", driver=driver, filter_events=5),
}


@pytest.mark.parametrize("call", CALLS)
def test_other_calls_refuse_it(driver, call) -> None:
    with pytest.raises(ConfigurationError):
        CALLS[call](driver)


@pytest.mark.parametrize("seconds", [*NO_NUMBERS, -1])
def test_the_delay_of_a_retry_is_a_number(seconds) -> None:
    with pytest.raises(ValueError, match="delay_seconds must be 0 or more"):
        Retry(seconds)


@pytest.mark.parametrize("errors", [None, [ValueError()], {0: "no price"}], ids=repr)
def test_a_partial_failure_names_exceptions_by_places(errors) -> None:
    with pytest.raises(TypeError, match="PartialFailure takes a dict"):
        PartialFailure(errors)


PUBLIC_CLASSES = [
    one
    for one in (getattr(melange, name) for name in melange.__all__)
    if inspect.isclass(one) and not issubclass(one, BaseException)
]


@pytest.mark.parametrize("public_class", PUBLIC_CLASSES, ids=lambda one: one.__name__)
def test_no_public_class_takes_more_than_ten_arguments(public_class) -> None:
    # What belongs together is a group, such as RetryPolicy: among more, a reader does not find the one that is needed.
    assert len(inspect.signature(public_class).parameters) <= 10
