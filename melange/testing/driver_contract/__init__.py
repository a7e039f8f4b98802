"""The contract of drivers as a test suite, to run on a driver of your own."""

from __future__ import annotations

import pytest

# Before the parts are imported, so that their assertions show what they compared.
for _part in ("case", "dead_letters", "declaring", "delivery", "fifo", "filters", "leases", "waiting"):
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from melange.testing.driver_contract.dead_letters import DeadLetterAdministration, DeadLetters  # noqa: E402
from melange.testing.driver_contract.declaring import Declaring  # noqa: E402
from melange.testing.driver_contract.delivery import Concurrency, Delivering  # noqa: E402
from melange.testing.driver_contract.fifo import Fifo  # noqa: E402
from melange.testing.driver_contract.filters import Filters, Refusals  # noqa: E402
from melange.testing.driver_contract.leases import Leases  # noqa: E402
from melange.testing.driver_contract.waiting import Closing, Delays, Waiting  # noqa: E402


class DriverContract(
    Delivering,
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
