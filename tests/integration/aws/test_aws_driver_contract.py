"""The driver contract over real boto3 and HTTP, on the local server that ``MELANGE_TEST_SERVER`` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.aws.deviations import DEVIATIONS
from melange.drivers.aws import AwsDriver
from melange.testing.driver_contract import DriverContract

BUSY_MACHINE_SECONDS = 60  # a server may start its services at the first call
REPOSITORY = Path(__file__).parents[3]


class TestAwsDriver(DriverContract):
    detects_stale_handles = False  # SQS accepts them on standard queues

    @pytest.fixture(autouse=True)
    def _server(self, sns_sqs_server: str) -> None:
        self.endpoint_url = sns_sqs_server

    def make_driver(self) -> AwsDriver:
        return AwsDriver(endpoint_url=self.endpoint_url, call_timeout_seconds=BUSY_MACHINE_SECONDS)


@pytest.mark.parametrize("server", DEVIATIONS)
def test_each_deviation_is_of_a_test_that_exists_and_its_rule_is_kept_elsewhere(server):
    beside_this = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for test_name, deviation in DEVIATIONS[server].items():
        path, covering_test = deviation.covered_by.split("::")

        assert hasattr(DriverContract, test_name) or f"def {test_name}(" in beside_this
        assert f"def {covering_test}(" in (REPOSITORY / path).read_text()
