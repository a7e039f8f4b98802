"""Queues as SQS keeps them, for whatever is stored in them.

The in-memory driver and ``melange.server`` share this package. It keeps what every queue has: visibility, receive
counts, delays, retention, dead letters, groups, deduplication, tenants and waiting receives. It does not decide which
caller may settle a message. The in-memory driver refuses an expired lease; SQS itself accepts most of them, and so does the
server. Each of the two keeps its own rules about receipt handles, and its own form of messages.
"""
