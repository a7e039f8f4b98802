"""A greenlet may be suspended in the middle of a publish: each has its own subscribers, in a scope of its own."""

from __future__ import annotations

import contextvars

import greenlet

from melange.domain import Subscribers
from unit.domain.given import names


class Happened:
    pass


def alpha(event: object) -> None: ...


def test_a_greenlet_starts_empty_unless_it_is_given_a_context(bus) -> None:
    bus.subscribe(alpha)
    with_context = greenlet.greenlet(names)
    with_context.gr_context = contextvars.copy_context()

    assert greenlet.greenlet(names).switch(bus) == []
    assert with_context.switch(bus) == ["alpha"]


def test_a_publish_that_is_suspended_by_a_greenlet_stands_alone_in_its_scope(bus, seen) -> None:
    group = Subscribers()
    main = greenlet.getcurrent()

    @group.on(Happened)
    def suspend(event):
        main.switch()
        seen.append("first")

    group.on(str)(seen.append)

    def request(event):
        with bus.scope(group):
            bus.publish(event)
            bus.publish("still alone")

    first, second = greenlet.greenlet(request), greenlet.greenlet(request)
    first.gr_context = second.gr_context = None
    first.switch(Happened())
    second.switch("second")
    first.switch()

    assert seen == ["second", "still alone", "first", "still alone"]
