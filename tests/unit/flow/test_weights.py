"""Queues of one worker share its threads by weights."""

import threading

import pytest

from melange import ConfigurationError, ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions, Worker
from melange.consuming.concurrency import QueuePart, parts_of
from melange.drivers.memory import InMemoryDriver
from waiting import eventually


class TestParts:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            (None, [QueuePart(106, 15, 1), QueuePart(106, 15, 1)]),
            ({"a": 3, "b": 1}, [QueuePart(106, 12, 12), QueuePart(35, 4, 4)]),
            ({"a": 3}, [QueuePart(106, 12, 12), QueuePart(35, 4, 4)]),
            ({"a": 1, "b": 1}, [QueuePart(106, 8, 8), QueuePart(106, 8, 8)]),
            ({"a": 1_000, "b": 1}, [QueuePart(106, 16 - 1, 15), QueuePart(1, 1, 1)]),
        ],
    )
    def test_threads_and_deliveries_are_in_proportion(self, weights, expected) -> None:
        assert parts_of(["a", "b"], 16, weights) == expected

    @pytest.mark.parametrize("weights", [{"c": 1}, {"a": 0}, {"a": True}, {"a": 1.5}, {"a": 1_001}])
    def test_weights_out_of_bounds_are_refused(self, weights) -> None:
        with pytest.raises(ConfigurationError):
            parts_of(["a", "b"], 16, weights)


def test_a_busy_queue_leaves_the_others_their_threads() -> None:
    with InMemoryDriver() as driver:
        release = threading.Event()
        running: dict[str, int] = {"busy": 0, "quiet": 0}
        counting = threading.Lock()

        def consumer_of(name: str) -> ExchangeMessageConsumer:
            consumer = ExchangeMessageConsumer(name, driver=driver, queue=QueueOptions(wait_seconds=1))

            @consumer.listener("Work", name="work")
            def work(event):
                with counting:
                    running[name] += 1
                release.wait(30)

            return consumer

        worker = Worker(consumer_of("busy"), consumer_of("quiet"), concurrency=8, weights={"busy": 3})
        for _ in range(50):
            QueueMessagePublisher("busy", driver).send({}, "Work")
        worker.start()
        eventually(lambda: running["busy"] == 6)
        for _ in range(2):
            QueueMessagePublisher("quiet", driver).send({}, "Work")

        eventually(lambda: running["quiet"] == 2)
        at_once = dict(running)
        release.set()
        worker.stop()

        assert at_once == {"busy": 6, "quiet": 2}


def test_a_slow_queue_goes_on_beside_a_quick_one_that_is_never_empty() -> None:
    with InMemoryDriver() as driver:
        is_over = threading.Event()
        slow_ones: list[int] = []
        quick = ExchangeMessageConsumer("quick", driver=driver, queue=QueueOptions(wait_seconds=1))
        slow = ExchangeMessageConsumer("slow", driver=driver, queue=QueueOptions(wait_seconds=1))
        publisher = QueueMessagePublisher("quick", driver)

        @quick.listener("Work", name="work")
        def work(event):
            if not is_over.is_set():
                publisher.send({}, "Work")

        @slow.listener("Work", name="work")
        def work_slowly(event):
            is_over.wait(0.4)
            slow_ones.append(event["number"])

        worker = Worker(quick, slow, concurrency=4)
        for _ in range(200):
            publisher.send({}, "Work")
        for number in range(5):
            QueueMessagePublisher("slow", driver).send({"number": number}, "Work")
        worker.start()

        eventually(lambda: len(slow_ones) == 5)
        is_over.set()
        worker.stop()
