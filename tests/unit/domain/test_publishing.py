"""Order, errors and what is promised after them."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

import melange.domain
from melange import CascadeError, ConfigurationError, DomainEventBus


@dataclass(frozen=True)
class Numbered:
    number: int


class Other:
    pass


def test_subscribers_are_called_in_the_order_of_subscription(bus, seen) -> None:
    for name in "abc":
        bus.on(Numbered)(lambda event, name=name: seen.append(name))

    bus.publish(Numbered(1))

    assert seen == ["a", "b", "c"]


def test_an_event_that_nobody_listens_to_is_fine(bus) -> None:
    bus.publish(object())

    assert not bus.is_publishing()


def test_events_that_follow_are_handled_breadth_first_before_publish_returns(bus, seen) -> None:
    @bus.on(Numbered)
    def first(event):
        seen.append(("first", event.number))
        if event.number < 4:
            bus.publish(Numbered(event.number * 2))
            bus.publish(Numbered(event.number * 2 + 1))
            seen.append(("published", event.number))

    @bus.on(Numbered)
    def second(event):
        seen.append(("second", event.number))

    bus.publish(Numbered(1))

    assert seen == [
        ("first", 1),
        ("published", 1),
        ("second", 1),
        ("first", 2),
        ("published", 2),
        ("second", 2),
        ("first", 3),
        ("published", 3),
        ("second", 3),
        *((name, number) for number in (4, 5, 6, 7) for name in ("first", "second")),
    ]


def test_is_publishing_is_true_for_subscribers_only(bus, seen) -> None:
    bus.on(Numbered)(lambda event: seen.append(bus.is_publishing()))

    bus.publish(Numbered(1))

    assert seen == [True]
    assert not bus.is_publishing()


@pytest.mark.parametrize("errors", ["raise", "collect"])
def test_an_endless_chain_ends_in_a_clear_error(errors) -> None:
    bus = DomainEventBus(cascade_limit=10)
    handled = []

    @bus.on(Numbered)
    def again(event):
        handled.append(event.number)
        bus.publish(Numbered(event.number + 1))

    with pytest.raises((CascadeError, ExceptionGroup)) as raised:
        bus.publish(Numbered(0), errors)

    error = raised.value if errors == "raise" else raised.value.exceptions[0]
    assert handled == list(range(11))
    assert "more than 10 domain events followed from one publish; the last were Numbered" in str(error)
    assert error.limit == 10


@pytest.mark.parametrize("errors", ["raise", "collect"])
def test_the_limit_holds_for_each_publish_anew(bus, seen, errors) -> None:
    bus.cascade_limit = 3

    @bus.on(Other)
    def three(event):
        for number in range(3):
            bus.publish(Numbered(number))

    bus.on(Numbered)(seen.append)

    for _ in range(5):
        bus.publish(Other(), errors)

    assert len(seen) == 15


def test_the_limit_holds_anew_after_an_error(bus, seen) -> None:
    bus.cascade_limit = 3
    bus.on(Numbered)(seen.append)

    @bus.on(Other)
    def three_and_fail(event):
        for number in range(3):
            bus.publish(Numbered(number))
        raise LookupError

    for _ in range(5):
        with pytest.raises(LookupError):
            bus.publish(Other())

    assert seen == []


def test_who_subscribes_during_a_publish_hears_the_next_event(bus, seen) -> None:
    @bus.on(Numbered)
    def subscribe(event):
        if event.number == 1:
            bus.on(Numbered)(seen.append)
            bus.publish(Numbered(2))

    bus.publish(Numbered(1))

    assert seen == [Numbered(2)]


def test_who_is_unsubscribed_during_a_publish_still_hears_its_event(bus, seen) -> None:
    @bus.on(Numbered)
    def unsubscribe(event):
        if event.number == 1:
            bus.unsubscribe(seen.append)
            bus.publish(Numbered(2))

    bus.on(Numbered)(seen.append)

    bus.publish(Numbered(1))

    assert seen == [Numbered(1)]


def test_reset_during_a_publish_is_refused(bus, seen) -> None:
    @bus.on(Numbered)
    def reset(event):
        with pytest.raises(ConfigurationError, match="during a publish"):
            bus.reset()
        with bus.deferred(), pytest.raises(ConfigurationError, match="during a publish"):
            bus.reset()

    bus.on(Numbered)(seen.append)

    bus.publish(Numbered(1))

    assert seen == [Numbered(1)]


class TestRaise:
    def test_an_error_reaches_the_publisher_with_who_and_what(self, bus, seen) -> None:
        error = LookupError("no such product")

        @bus.on(Numbered)
        def fail(event):
            raise error

        bus.on(Numbered)(seen.append)

        with pytest.raises(LookupError) as raised:
            bus.publish(Numbered(1))

        assert raised.value is error
        assert [note.rpartition(".")[2] for note in error.__notes__] == ["fail, handling Numbered"]
        assert seen == []

    def test_the_note_names_the_one_that_failed_on_an_event_that_followed(self, bus) -> None:
        @bus.on(Numbered)
        def follow(event):
            bus.publish(Other())

        @bus.on(Other)
        def fail(event):
            raise LookupError

        with pytest.raises(LookupError) as raised:
            bus.publish(Numbered(1))

        assert [note.rpartition(".")[2] for note in raised.value.__notes__] == ["fail, handling Other"]

    @pytest.mark.parametrize("error", [LookupError, KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("fails_at", [1, 2, 3])
    def test_what_waited_is_dropped_and_the_bus_works_on(self, bus, seen, error, fails_at) -> None:
        @bus.on(Numbered)
        def follow(event):
            if event.number < 3:
                bus.publish(Numbered(event.number + 1))
            if event.number == fails_at:
                raise error

        with pytest.raises(error):
            bus.publish(Numbered(1))
        bus.on(Numbered)(seen.append)
        bus.publish(Numbered(7))

        assert not bus.is_publishing()
        assert seen == [Numbered(7)]

    def test_a_subscriber_may_catch_what_its_own_publish_cannot_raise(self, bus, seen) -> None:
        @bus.on(Numbered)
        def publish_safely(event):
            try:
                bus.publish(Other())
            finally:
                seen.append("returned at once")

        @bus.on(Other)
        def fail(event):
            seen.append("failed")
            raise LookupError

        with pytest.raises(LookupError):
            bus.publish(Numbered(1))

        assert seen == ["returned at once", "failed"]


class TestCollect:
    def test_all_run_and_one_group_is_raised(self, bus, seen) -> None:
        def failing(error):
            def fail(event):
                seen.append(type(error))
                raise error

            return fail

        @bus.on(Numbered)
        def follow(event):
            if event.number == 1:
                bus.publish(Numbered(2))

        bus.on(Numbered)(failing(LookupError()))
        bus.on(Numbered)(failing(ValueError()))
        bus.on(Numbered)(seen.append)

        with pytest.raises(ExceptionGroup, match="4 calls of domain subscribers failed") as raised:
            bus.publish(Numbered(1), errors="collect")

        kinds = [LookupError, ValueError]
        assert [type(error) for error in raised.value.exceptions] == kinds * 2
        assert all("handling Numbered" in error.__notes__[0] for error in raised.value.exceptions)
        assert seen == [*kinds, Numbered(1), *kinds, Numbered(2)]
        assert not bus.is_publishing()

    def test_nothing_is_raised_when_nothing_failed(self, bus, seen) -> None:
        bus.on(Numbered)(seen.append)

        bus.publish(Numbered(1), errors="collect")

        assert seen == [Numbered(1)]

    def test_an_interrupt_passes_at_once(self, bus, seen) -> None:
        @bus.on(Numbered)
        def interrupt(event):
            raise KeyboardInterrupt

        bus.on(Numbered)(seen.append)

        with pytest.raises(KeyboardInterrupt):
            bus.publish(Numbered(1), errors="collect")

        assert seen == []
        assert not bus.is_publishing()

    def test_the_first_publish_decides(self, bus, seen) -> None:
        @bus.on(Numbered)
        def follow(event):
            bus.publish(Other(), errors="collect")

        @bus.on(Other)
        def fail(event):
            raise LookupError

        with pytest.raises(LookupError):
            bus.publish(Numbered(1))

    def test_any_other_word_is_refused(self, bus) -> None:
        with pytest.raises(ConfigurationError, match="errors must be 'raise' or 'collect', not 'ignore'"):
            bus.publish(Numbered(1), errors="ignore")


class TestAsynchronousSubscribers:
    def test_a_synchronous_publish_is_refused_before_anybody_was_called(self, bus, seen) -> None:
        bus.on(Numbered)(seen.append)

        @bus.on(Numbered)
        async def listen(event):
            seen.append("async")

        for errors in ("raise", "collect"):
            with pytest.raises(
                ConfigurationError, match="listen listens to Numbered and is asynchronous: publish with"
            ):
                bus.publish(Numbered(1), errors)

        assert seen == []
        assert not bus.is_publishing()

    def test_one_that_follows_is_refused_where_it_is_published(self, bus, seen) -> None:
        @bus.on(Other)
        async def listen(event):
            seen.append("async")

        @bus.on(Numbered)
        def follow(event):
            with pytest.raises(ConfigurationError, match="asynchronous"):
                bus.publish(Other())
            seen.append("refused")

        bus.publish(Numbered(1))

        assert seen == ["refused"]

    def test_a_coroutine_from_a_plain_function_is_an_error(self, bus) -> None:
        async def work():
            pass

        bus.on(Numbered)(lambda event: work())

        with pytest.raises(ConfigurationError, match="<lambda> returned a coroutine, which is never awaited"):
            bus.publish(Numbered(1))

    def test_other_results_are_ignored(self, bus) -> None:
        bus.on(Numbered)(lambda event: event)

        bus.publish(Numbered(1))
        bus.publish(Numbered(1), errors="collect")


def test_an_interrupt_at_any_line_leaves_the_bus_working(bus, seen) -> None:
    """A signal may come between any two lines: each in turn raises, and after it the bus must do as ever."""

    @bus.on(Numbered)
    def follow(event):
        if event.number < 2:
            bus.publish(Numbered(event.number + 1))

    bus.publish(Numbered(0))  # routes are compiled
    lines = interrupted_at(lambda: bus.publish(Numbered(0)), line=None)
    assert lines > 20

    for line in range(lines):
        interrupted_at(lambda: bus.publish(Numbered(0)), line)
        assert not bus.is_publishing(), line
        with bus.recording() as events:
            bus.publish(Numbered(0))
        assert events == [Numbered(0), Numbered(1), Numbered(2)], line


# Lines of mere assignments, and those that do nothing: the interpreter looks for signals at calls and loops.
INDIVISIBLE = ("try:", "drain.is_busy = ", "drain.queue = ", "drain.count = 0")


def is_divisible(frame: FrameType) -> bool:
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    if line.startswith("for handler in handlers"):
        return "handler" in frame.f_locals  # when it comes round, not when it begins
    return not line.startswith(INDIVISIBLE)


def interrupted_at(run: Callable[[], None], line: int | None) -> int:
    """Run with a ``KeyboardInterrupt`` before the given line of the bus's code; return how many lines ran."""
    package = str(Path(melange.domain.__file__).parent)
    count = 0

    def trace(frame, what, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(package):
            return None
        if what == "line" and is_divisible(frame):
            count += 1
            if count - 1 == line:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(previous)
    return count
