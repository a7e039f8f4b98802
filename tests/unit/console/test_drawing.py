"""The graph of topics and queues, and the charts of depths and rates."""

from melange.console.charts import HEIGHT, SAMPLES, WIDTH, QueueHistory, chart_of
from melange.console.graph import NODE_WIDTH, draw
from melange.console.model import Binding, Overview, Queue, Topic, Traffic

TOPIC = "arn:aws:sns:us-east-1:000000000000:events"
QUEUE = "arn:aws:sqs:us-east-1:000000000000:orders"
DEAD = "arn:aws:sqs:us-east-1:000000000000:orders-dlq"


def queue(arn=QUEUE, **options):
    return Queue(arn, is_fifo=False, **{"visible": 0, "in_flight": 0, "delayed": 0} | options)


def overview(*bindings, queues=()):
    return Overview([Topic(TOPIC, is_fifo=False)], queues, bindings)


def test_topics_are_left_of_queues_and_those_left_of_dead_letters():
    graph = draw(
        overview(
            Binding("b", TOPIC, "sqs", QUEUE),
            queues=[queue(dead_letter_arn=DEAD, max_receive_count=3), queue(DEAD, source_arns=(QUEUE,))],
        )
    )

    left, middle, right = graph.nodes
    assert (left.arn, middle.arn, right.arn) == (TOPIC, QUEUE, DEAD)
    assert left.x < middle.x < right.x
    assert graph.width >= right.x + NODE_WIDTH
    assert [edge.kind for edge in graph.edges] == ["all", "dead letters"]


def test_a_queue_that_is_subscribed_is_no_dead_letter_queue_in_the_graph():
    graph = draw(overview(Binding("b", TOPIC, "sqs", DEAD), queues=[queue(DEAD)]))

    assert [node.kind for node in graph.nodes] == ["topic", "queue"]


def test_endpoints_that_are_no_queues_have_no_page():
    graph = draw(overview(Binding("b", TOPIC, "https", "https://example.org/hook")))

    assert [(node.kind, node.path) for node in graph.nodes] == [
        ("topic", f"topics/{TOPIC}"),
        ("endpoint", ""),
    ]


def test_a_queue_can_be_its_own_dead_letter_queue_by_way_of_another():
    graph = draw(
        overview(
            Binding("b", TOPIC, "sqs", QUEUE),
            Binding("c", TOPIC, "sqs", DEAD),
            queues=[queue(dead_letter_arn=DEAD), queue(DEAD, dead_letter_arn=QUEUE)],
        )
    )

    assert [edge.kind for edge in graph.edges].count("dead letters") == 2


def test_long_names_are_shortened_in_the_middle():
    [node] = draw(Overview([], [queue(QUEUE + "-of-the-shop-in-the-next-street")], [])).nodes

    assert node.short_name == "orders-of-the-sh…t-street"


def test_an_empty_broker_has_an_empty_graph():
    assert draw(Overview([], [], [])).nodes == []


def test_a_chart_ends_at_the_right_and_begins_at_zero():
    chart = chart_of(depth=[0, 5, 10])

    first, _, last = [tuple(map(float, point.split(","))) for point in chart.lines[0].points.split()]
    assert last == (WIDTH, 1)
    assert first[1] == HEIGHT - 1
    assert chart.highest == 10


def test_a_chart_of_nothing_is_a_line_at_the_bottom():
    chart = chart_of(depth=[0, 0])

    assert {point.split(",")[1] for point in chart.lines[0].points.split()} == {f"{HEIGHT - 1:.1f}"}


def test_one_value_is_no_chart():
    assert chart_of(depth=[1]) is None
    assert chart_of(depth=[]) is None


def test_rates_are_messages_per_second_between_two_samples(browser):
    history = QueueHistory(browser.backend)

    history.add(overview(queues=[queue(traffic=Traffic(10, 4, 4))]), at=100)
    history.add(overview(queues=[queue(visible=6, traffic=Traffic(30, 14, 8))]), at=102)

    first, second = history._samples[QUEUE]
    assert (first.arriving, first.receiving, first.deleting) == (0, 0, 0)
    assert (second.arriving, second.receiving, second.deleting) == (10, 5, 2)
    assert second.visible == 6


def test_the_history_forgets_old_samples_and_deleted_queues(browser):
    history = QueueHistory(browser.backend)

    for second in range(SAMPLES + 10):
        history.add(overview(queues=[queue()]), at=second + 1)
    assert len(history._samples[QUEUE]) == SAMPLES
    history.add(overview(), at=1_000)

    assert QUEUE not in history._samples


def test_what_happens_to_messages_is_counted(browser):
    topic, url = browser.client.topic(), browser.client.queue("orders")
    browser.client.subscribe(topic, url)

    browser.client.sns("Publish", TopicArn=topic, Message="1")
    browser.client.send(url, "2")
    browser.client.delete(url, browser.client.receive(url)[0])

    found = browser.backend.overview()
    assert found.topic(topic).traffic.arrived == 1
    assert found.queue(browser.client.arn(url)).traffic == Traffic(arrived=2, received=2, deleted=1)
