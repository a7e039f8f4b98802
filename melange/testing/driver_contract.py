"""The contract of drivers as a test suite, to run on a driver of your own."""

from __future__ import annotations

import pytest

# Before the parts are imported, so that their assertions show what they compared.
pytest.register_assert_rewrite("melange.testing.driver_behaviours")

from melange.testing.driver_behaviours.concurrency import Closing, Concurrency  # noqa: E402
from melange.testing.driver_behaviours.dead_letter_access import DeadLetterAdministration  # noqa: E402
from melange.testing.driver_behaviours.dead_letters import DeadLetters  # noqa: E402
from melange.testing.driver_behaviours.declaring import Declaring  # noqa: E402
from melange.testing.driver_behaviours.fifo import Fifo  # noqa: E402
from melange.testing.driver_behaviours.filters import Filters, Refusals  # noqa: E402
from melange.testing.driver_behaviours.leases import Leases  # noqa: E402
from melange.testing.driver_behaviours.travelling import Travelling  # noqa: E402
from melange.testing.driver_behaviours.waiting import Delays, Waiting  # noqa: E402


class DriverContract(
    Travelling,
    Waiting,
    Leases,
    Delays,
    DeadLetters,
    DeadLetterAdministration,
    Fifo,
    Filters,
    Declaring,
    Refusals,
    Closing,
    Concurrency,
):
    """What every driver promises. Subclass it in a test file and return a driver from ``make_driver``.

        class TestMyDriver(DriverContract):
            def make_driver(self):
                return MyDriver(url="...")

    The constructor is called once or twice in a test, and each driver it returns is closed. Tests of a capability
    that the driver does not have are skipped. Topics and queues get unique names, and are removed after each test
    if the driver offers ``BrokerAdministration``.

    A subclass may set:

    ``short_visibility_seconds`` (1)
        the shortest visibility timeout, deferral and delay that the broker keeps reliably.
    ``max_delay_seconds`` (900)
        the longest delay of a single message; 0 if the broker has no delays.
    ``detects_stale_handles`` (True)
        True if a receipt handle stops working once the message was delivered to another receiver.
    ``pass_time(driver, seconds)``
        how time passes: by default the suite waits. With a clock that can be advanced, advance it.
    ``patience_seconds`` (10)
        the limit, in real time, for something that must arrive.
    ``many_messages`` (5,000), ``many_fifo_messages`` (1,000)
        the numbers of messages in the tests with many threads.
    """
