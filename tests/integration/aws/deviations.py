"""Where the local servers are not as AWS is: the only place that says so.

A test named here is expected to fail on that server, strictly: once it passes, the run fails until the
entry is taken out. ``covered_by`` is the test that keeps the rule without that server.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    rule: str
    covered_by: str


BATCHES = "tests/unit/aws/test_aws_batches.py"
TRACES = "tests/unit/aws/test_aws_trace_context.py"
FIFO = "melange/testing/driver_contract/fifo.py"
DEAD_LETTERS = "melange/testing/driver_contract/dead_letters.py"
"""These run on LocalStack, on melange server and on the in-memory driver."""

DEVIATIONS: dict[str, dict[str, Deviation]] = {
    "ministack": {
        "test_acknowledging_twice_is_fine": Deviation(
            rule="deleting a message a second time succeeds; MiniStack answers ReceiptHandleIsInvalid",
            covered_by=f"{BATCHES}::test_acknowledging_again_what_sqs_has_forgotten_is_no_failure",
        ),
        "test_the_head_of_a_group_is_received_again_while_its_followers_are_in_flight": Deviation(
            rule="a group's first message is received while later ones are invisible; MiniStack blocks the group",
            covered_by=f"{FIFO}::test_the_head_of_a_group_is_received_again_while_its_followers_are_in_flight",
        ),
        "test_of_a_group_the_messages_before_its_first_invisible_one_are_received": Deviation(
            rule="messages before a group's first invisible one are received; MiniStack blocks the group",
            covered_by=f"{FIFO}::test_of_a_group_the_messages_before_its_first_invisible_one_are_received",
        ),
        "test_a_fifo_topic_feeds_a_standard_queue": Deviation(
            rule="messages of a FIFO topic have no deduplication id in a standard queue; MiniStack makes one up",
            covered_by=f"{FIFO}::test_a_fifo_topic_feeds_a_standard_queue",
        ),
        "test_a_dead_letter_queue_with_one_of_its_own_counts_only_its_receives": Deviation(
            rule="only receives from a queue count for its redrive; MiniStack counts those from its source",
            covered_by=f"{DEAD_LETTERS}::test_a_dead_letter_queue_with_one_of_its_own_counts_only_its_receives",
        ),
        "test_a_message_sent_to_a_queue_has_the_header_of_x_ray": Deviation(
            rule="a batch carries AWSTraceHeader; MiniStack keeps it for a single message alone",
            covered_by=f"{TRACES}::test_what_is_sent_to_a_queue_has_the_header_of_x_ray_too",
        ),
        "test_a_move_of_the_whole_queue_can_be_watched_and_cancelled": Deviation(
            rule="message move tasks; MiniStack has none",
            covered_by="tests/unit/aws/test_aws_dead_letter_access.py::"
            "test_moves_are_listed_and_the_running_one_is_cancelled",
        ),
        "test_the_sources_of_a_dead_letter_queue_can_be_found": Deviation(
            rule="ListDeadLetterSourceQueues; MiniStack does not have it",
            covered_by=f"{DEAD_LETTERS}::test_the_sources_of_a_dead_letter_queue_can_be_found",
        ),
    },
    "localstack": {},
    "melange_server": {},
}
