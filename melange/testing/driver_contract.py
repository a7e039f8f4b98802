"""The contract of drivers, to be run against one's own."""

from __future__ import annotations

import pytest

# Before the parts are imported: their assertions shall show what they compared.
pytest.register_assert_rewrite("melange.testing.driver_behaviours")

from melange.testing.driver_behaviours.closing import Closing  # noqa: E402
from melange.testing.driver_behaviours.concurrency import Concurrency  # noqa: E402
from melange.testing.driver_behaviours.dead_letters import DeadLetters  # noqa: E402
from melange.testing.driver_behaviours.declaring import Declaring  # noqa: E402
from melange.testing.driver_behaviours.delays import Delays  # noqa: E402
from melange.testing.driver_behaviours.fifo import Fifo  # noqa: E402
from melange.testing.driver_behaviours.filters import Filters  # noqa: E402
from melange.testing.driver_behaviours.leases import Leases  # noqa: E402
from melange.testing.driver_behaviours.refusals import Refusals  # noqa: E402
from melange.testing.driver_behaviours.travelling import Travelling  # noqa: E402
from melange.testing.driver_behaviours.waiting import Waiting  # noqa: E402


class DriverContract(
    Travelling,
    Waiting,
    Leases,
    Delays,
    DeadLetters,
    Fifo,
    Filters,
    Declaring,
    Refusals,
    Closing,
    Concurrency,
):
    """What every driver promises: subclass it in a test file and name a constructor.

        class TestMyDriver(DriverContract):
            def make_driver(self):
                return MyDriver(url="...")

    The constructor is called once or twice in a test, and each driver it returns is closed. What the driver's
    ``capabilities`` deny is skipped. Topics and queues get names of their own, and are removed after each test
    where the driver offers ``BrokerAdministration``.

    A subclass may set:

    ``short_visibility_seconds`` (1)
        the shortest visibility timeout, deferral and delay that the broker keeps reliably.
    ``pass_time(driver, seconds)``
        how time passes: by default it is waited for. A driver with a clock that can be advanced does that.
    ``patience_seconds`` (10)
        how long, in real time, something that must arrive may take.
    ``many_messages`` (5,000), ``many_fifo_messages`` (1,000)
        how many the tests with many threads send.
    """
