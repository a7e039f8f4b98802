"""What type checkers know about consumers and listeners. Not run: mypy and pyright read it, both strict.

A line that must be refused says so to both; where one of them stops refusing it, that one complains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from melange import (
    EventMessage,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
    RetryPolicy,
    ThreadedExchangeMessageConsumer,
)


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: int


@dataclass(frozen=True)
class OrderCancelled(EventMessage):
    order_id: int


class Plain(ExchangeListener):
    def process(self, event: Any, **kwargs: Any) -> None: ...


class Asynchronous(ExchangeListener):
    async def process(self, event: Any, *args: Any, **kwargs: Any) -> None: ...


def options_are_known_by_name() -> None:
    ExchangeMessageConsumer(
        "stock", "orders", retry=RetryPolicy(max_attempts=3), queue=QueueOptions(wait_seconds=1)
    )
    ThreadedExchangeMessageConsumer("stock", "orders", retry=RetryPolicy(max_attempts=3), concurrency=2)
    ThreadedExchangeMessageConsumer("stock", retrys=RetryPolicy())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ExchangeMessageConsumer("stock", max_attempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    QueueOptions(wait_secs=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_function_for_a_class_takes_that_class(consumer: ExchangeMessageConsumer) -> None:
    @consumer.listener(OrderPlaced)
    def fits(event: OrderPlaced) -> None: ...

    @consumer.listener(OrderPlaced, name="with keywords")
    async def fits_with_keywords(event: OrderPlaced, message_id: str, **kwargs: Any) -> None: ...

    @consumer.listener(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def does_not_fit(event: OrderCancelled) -> None: ...

    @consumer.listener("OrderPlaced", OrderCancelled)
    def several(event: Any) -> None: ...

    fits(OrderPlaced(1))
    several({})


async def asynchronous_methods_know_their_options(publisher: ExchangeMessagePublisher) -> None:
    event = {"event_type_name": "OrderPlaced"}
    message_id: str = await publisher.publish_async(event, headers={"own": "1"}, message_group_id="a")
    message_ids: list[str] = await publisher.publish_batch_async([event], message_id=lambda event: message_id)
    await publisher.publish_async(event, delay_seconds=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await QueueMessagePublisher("stock").send_async(event, delay_seconds=len(message_ids))
