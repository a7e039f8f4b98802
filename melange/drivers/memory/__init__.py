"""The in-memory driver: SNS and SQS semantics within one process."""

from melange.drivers.memory.driver import InMemoryDriver

__all__ = ["InMemoryDriver"]
