"""The diagram of a topology."""

from melange.drivers.base import EventFilter
from melange.topology import (
    DeclaredBinding,
    DeclaredListener,
    DeclaredPublisher,
    DeclaredQueue,
    DeclaredTopic,
    Topology,
)
from melange.topology.graph import to_mermaid, to_picture


def topology(*listeners, event_filter=None):
    return Topology(
        "shop",
        topics=(DeclaredTopic("orders"),),
        queues=(
            DeclaredQueue(
                "billing",
                (DeclaredBinding("orders", event_filter),),
                tuple(DeclaredListener(name, ("OrderPlaced",)) for name in listeners or ("bill",)),
                dead_letter_queue="billing-dlq",
            ),
            DeclaredQueue("billing-dlq"),
        ),
        publishers=(DeclaredPublisher("orders", "outbox", ("OrderPlaced",)),),
    )


def test_it_shows_publishers_topics_queues_and_listeners():
    assert to_mermaid(topology()) == (
        "flowchart LR\n"
        '    t0(["topic orders"])\n'
        '    q0[["queue billing"]]\n'
        '    q1[["queue billing-dlq"]]\n'
        '    p0("outbox") -- "OrderPlaced" --> t0\n'
        "    t0 --> q0\n"
        '    q0 -. "dead letters" .-> q1\n'
        '    q0 -- "OrderPlaced" --> q0l0("listener bill")\n'
    )


def test_a_filter_is_on_its_arrow_and_long_ones_are_shortened():
    text = to_mermaid(topology(event_filter=EventFilter(("A", "B", "C", "D", "E"))))

    assert 't0 -- "A, B, C and 2 more" --> q0' in text


def test_any_name_can_be_drawn():
    picture = to_picture(topology("f.<locals>.g", 'a"b', "end", "a]]b", "#;&"), "svg").decode()

    assert picture.lstrip().startswith("<svg")
    assert "Syntax error" not in picture


def test_a_picture_can_be_a_png():
    assert to_picture(topology(), "png").startswith(b"\x89PNG")
