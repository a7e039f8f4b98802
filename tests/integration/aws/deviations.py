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

DEVIATIONS: dict[str, dict[str, Deviation]] = {
    "ministack": {
        "test_acknowledging_twice_is_fine": Deviation(
            rule="deleting a message a second time succeeds; MiniStack answers ReceiptHandleIsInvalid",
            covered_by=f"{BATCHES}::test_acknowledging_again_what_sqs_has_forgotten_is_no_failure",
        ),
    },
    "localstack": {},
}
