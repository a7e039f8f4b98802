"""Outbox and inbox on real databases: who writes, who relays, who consumes, each a process that can be killed.

The ``writer``'s own table, filled in the transaction that publishes, says what was committed and in which order.
The ``relay`` takes it to the broker, the ``consumer`` puts its effects into a database of its own. The
``checker`` compares.
"""
