"""The contract of deduplication stores, to be run against one's own."""

from __future__ import annotations

import pytest

# Before the parts are imported: their assertions shall show what they compared.
pytest.register_assert_rewrite("melange.testing.store_behaviours")

from melange.testing.store_behaviours.attempts import Attempts, AttemptsOfLeases  # noqa: E402
from melange.testing.store_behaviours.claiming import Claiming  # noqa: E402
from melange.testing.store_behaviours.leases import Leases  # noqa: E402
from melange.testing.store_behaviours.transactions import Transactions  # noqa: E402


class DeduplicationStoreContract(Claiming, Leases, Attempts, AttemptsOfLeases):
    """What every deduplication store promises: subclass it and name a constructor.

        class TestMyStore(DeduplicationStoreContract):
            def make_store(self):
                return MyStore()

    ``pass_time`` must let the given seconds pass for the store: by default it waits. ``short_lease_seconds`` (1) is
    how long the leases are that are waited out.
    """


class TransactionalStoreContract(Claiming, Transactions, Attempts):
    """The same for a store whose claim is an open transaction, with the listener's work in it.

    Such a claim can't end with its lease: whoever took over would do the work a second time, while the first may yet
    commit it. It ends with the transaction, which the database rolls back when the process dies.
    """
