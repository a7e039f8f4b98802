"""The contract of deduplication stores as a test suite, to run on a store of your own."""

from __future__ import annotations

import pytest

# Before the parts are imported, so that their assertions show what they compared.
pytest.register_assert_rewrite(f"{__name__}.attempts", f"{__name__}.claims")

from melange.testing.deduplication_contract.attempts import Attempts, AttemptsOfLeases  # noqa: E402
from melange.testing.deduplication_contract.claims import Claiming, Leases, Transactions  # noqa: E402


class DeduplicationStoreContract(Claiming, Leases, Attempts, AttemptsOfLeases):
    """What every deduplication store promises. Subclass it and return a store from ``make_store``.

        class TestMyStore(DeduplicationStoreContract):
            def make_store(self):
                return MyStore()

    ``pass_time`` must let the given seconds pass for the store: by default it waits. ``short_lease_seconds`` (1) is the
    length of the leases that expire during a test.
    """


class TransactionalStoreContract(Claiming, Transactions, Attempts):
    """The same for a store with an open transaction as its claim, which includes the listener's work.

    Such a claim cannot end with its lease: a successor would do the work a second time, while the first may still
    commit. It ends with the transaction, which the database rolls back when the process dies.
    """
