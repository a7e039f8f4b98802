"""The base that domain events may have."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from melange import DomainEvent, DomainEventBus


@dataclass(frozen=True)
class ProductAdded(DomainEvent):
    product_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Slotted(DomainEvent):
    product_id: int


@dataclass
class Mutable(DomainEvent):
    product_id: int
    tags: list[str] = dataclasses.field(default_factory=list)


class ByHand(DomainEvent):
    def __init__(self, product_id):  # does not call super().__init__()
        self.product_id = product_id


@pytest.mark.parametrize(
    ("event_type", "values"),
    [(ProductAdded, (1, "Cooler")), (Slotted, (1,)), (Mutable, (1,)), (ByHand, (1,))],
)
def test_an_event_knows_when_it_was_created(event_type, values) -> None:
    before = datetime.now(UTC)

    event = event_type(*values)

    assert before <= event.occurred_on <= datetime.now(UTC)
    assert event.occurred_on.utcoffset() == timedelta(0)


def test_each_event_has_its_own_time() -> None:
    first, second = ProductAdded(1, "Cooler"), ProductAdded(1, "Cooler")

    assert first == second
    assert first.occurred_on < second.occurred_on or first.occurred_on is not second.occurred_on


@pytest.mark.parametrize("event", [ProductAdded(1, "Cooler"), Slotted(1), Mutable(1)], ids=repr)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_copies_keep_the_time(event, duplicate) -> None:
    assert duplicate(event).occurred_on == event.occurred_on


def test_emit_publishes_on_the_shared_bus(seen) -> None:
    with DomainEventBus.instance().scope():
        DomainEventBus.instance().on(ProductAdded)(seen.append)
        event = ProductAdded(1, "Cooler")

        event.emit()

    assert seen == [event]


def test_emit_may_collect_errors() -> None:
    def fail(event: ProductAdded) -> None:
        raise LookupError(event.name)

    with DomainEventBus.instance().scope():
        DomainEventBus.instance().subscribe(fail)

        with pytest.raises(ExceptionGroup):
            ProductAdded(1, "Cooler").emit(errors="collect")
