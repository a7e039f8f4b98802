"""What type checkers know about the harness. Not run: mypy and pyright read it, both strict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from melange import EventMessage
from melange.testing import Harness


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: int


def pack(event: OrderPlaced) -> None: ...


def events_have_their_type(harness: Harness) -> None:
    assert_type(harness.published(OrderPlaced), list[OrderPlaced])
    assert_type(harness.published(OrderPlaced, where=lambda event: event.order_id == 7), list[OrderPlaced])
    assert_type(harness.published("OrderPlaced"), list[dict[str, Any]])
    assert_type(harness.handled(OrderPlaced), list[OrderPlaced])
    assert_type(harness.failed(pack), list[Any])
    assert_type(harness.dead_lettered(OrderPlaced), list[OrderPlaced])


def where_takes_the_event(harness: Harness) -> None:
    harness.published(OrderPlaced, where=lambda event: event.order == 7)  # type: ignore[attr-defined]  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType, reportAttributeAccessIssue]
