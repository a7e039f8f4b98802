"""Topics and queues: declared, declared again, looked up."""

from __future__ import annotations

import pytest

from melange.errors import ConfigurationError, InvalidNameError, QueueNotFoundError, TopicNotFoundError
from melange.testing.driver_contract.case import DriverCase, bodies, in_parallel, message


class Declaring(DriverCase):
    """Declaring is idempotent and removes nothing; looking up creates nothing."""

    def test_a_declared_topic_and_queue_are_found_by_name(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)

        assert self.driver.get_topic(topic.name) == topic
        assert self.driver.get_queue(queue.name) == queue

    def test_each_topic_and_queue_has_an_address_of_its_own(self) -> None:
        topics, queues = [self.topic(), self.topic()], [self.queue(), self.queue()]

        addresses = {topic.address for topic in topics} | {queue.address for queue in queues}

        assert len(addresses) == 4

    def test_declaring_again_gives_the_same(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)

        assert self.topic(topic.name) == topic
        assert self.queue(topic, name=queue.name) == queue

    def test_declaring_again_delivers_once(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        self.queue(topic, name=queue.name)

        self.publish(topic, message("once"))

        assert bodies(self.take(queue)) == ["once"]
        self.expect_nothing(queue)

    def test_declaring_again_keeps_the_messages(self) -> None:
        queue = self.queue()
        self.send(queue, message("kept"))

        self.queue(self.topic(), name=queue.name)

        assert bodies(self.take(queue)) == ["kept"]

    def test_declaring_a_topic_again_keeps_its_bindings(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)

        self.publish(self.topic(topic.name), message("still bound"))

        assert bodies(self.take(queue)) == ["still bound"]

    def test_a_second_topics_binding_keeps_the_firsts(self) -> None:
        first, second = self.topic(), self.topic()
        queue = self.queue(first)
        self.queue(second, name=queue.name)

        self.publish(first, message("from the first"))
        self.publish(second, message("from the second"))

        assert sorted(bodies(self.take(queue, 2))) == ["from the first", "from the second"]

    def test_a_queue_is_bound_to_several_topics_at_once(self) -> None:
        topics = [self.topic() for _ in range(3)]
        queue = self.queue(*topics)

        for topic in topics:
            self.publish(topic, message(topic.name))

        assert sorted(bodies(self.take(queue, 3))) == sorted(topic.name for topic in topics)

    def test_declarations_at_the_same_time_agree(self) -> None:
        topic_name, queue_name = self.name(), self.name()

        topics = in_parallel(*[lambda: self.topic(topic_name)] * 4)
        queues = in_parallel(*[lambda: self.queue(topics[0], name=queue_name)] * 4)

        assert topics == [topics[0]] * 4
        assert queues == [queues[0]] * 4
        self.publish(topics[0], message("once"))
        assert bodies(self.take(queues[0])) == ["once"]
        self.expect_nothing(queues[0])

    def test_bindings_declared_at_the_same_time_all_hold(self) -> None:
        topics = [self.topic() for _ in range(4)]
        queue = self.queue()

        in_parallel(*[lambda topic=topic: self.queue(topic, name=queue.name) for topic in topics])
        for topic in topics:
            self.publish(topic, message(topic.name))

        assert sorted(bodies(self.take(queue, 4))) == sorted(topic.name for topic in topics)

    def test_a_topic_that_is_not_there_is_not_found_and_not_created(self) -> None:
        name = self.name()

        for _ in range(2):
            with pytest.raises(TopicNotFoundError, match=name):
                self.driver.get_topic(name)

    def test_a_queue_that_is_not_there_is_not_found_and_not_created(self) -> None:
        name = self.name()

        for _ in range(2):
            with pytest.raises(QueueNotFoundError, match=name):
                self.driver.get_queue(name)

    def test_what_was_deleted_is_gone(self) -> None:
        administration = self.administration()
        topic = self.topic()
        queue = self.queue(topic)

        administration.delete_queue(queue)
        administration.delete_topic(topic)

        with pytest.raises(QueueNotFoundError):
            self.driver.get_queue(queue.name)
        with pytest.raises(QueueNotFoundError):
            self.driver.receive(queue, 1, 0)
        with pytest.raises(QueueNotFoundError):
            self.driver.send(queue, [message()])
        with pytest.raises(TopicNotFoundError):
            self.driver.publish(topic, [message()])

    def test_deleting_twice_is_fine(self) -> None:
        administration = self.administration()
        topic, queue = self.topic(), self.queue()

        for _ in range(2):
            administration.delete_queue(queue)
            administration.delete_topic(topic)

    def test_a_deleted_queue_leaves_the_topics_other_queues(self) -> None:
        administration = self.administration()
        topic = self.topic()
        kept, deleted = self.queue(topic), self.queue(topic)

        administration.delete_queue(deleted)
        self.publish(topic, message("news"))

        assert bodies(self.take(kept)) == ["news"]

    def test_a_purged_queue_is_empty_and_usable(self) -> None:
        administration = self.administration()
        queue = self.queue()
        self.send(queue, message("visible"), message("in flight"))
        self.take(queue)

        administration.purge_queue(queue)

        self.expect_nothing(queue)
        self.send(queue, message("after"))
        assert bodies(self.take(queue)) == ["after"]

    def test_a_queues_messages_are_counted(self) -> None:
        administration = self.administration()
        queue = self.queue()
        self.send(queue, *[message(f"{number}") for number in range(3)])
        self.take(queue)

        depth = administration.measure_queue(queue)

        assert (depth.visible, depth.in_flight, depth.delayed) == (2, 1, 0)

    def test_tags_are_taken(self) -> None:
        topic = self.topic(tags={"team": "orders"})

        queue = self.queue(topic, tags={"team": "orders"})

        assert self.topic(topic.name, tags={"team": "billing"}) == topic
        assert self.queue(name=queue.name, tags={"team": "billing"}) == queue

    @pytest.mark.parametrize("name", ["", "with blanks", "with.dot", ".fifo", "a/b", "ümlaut", "x" * 257])
    def test_a_name_that_the_broker_would_refuse_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidNameError):
            self.driver.declare_topic(name)
        with pytest.raises(InvalidNameError):
            self.driver.declare_queue(name)

    @pytest.mark.parametrize("retention_seconds", [59, 1_209_601, 60.5, "60", True])
    def test_a_retention_out_of_bounds_is_refused(self, retention_seconds: int) -> None:
        with pytest.raises(ConfigurationError, match="retention_seconds"):
            self.driver.declare_queue(self.name(), retention_seconds=retention_seconds)
