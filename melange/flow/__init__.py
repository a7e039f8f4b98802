"""Flow control: limits and circuit breakers for consumers, passed as ``flow=[...]``.

Over a limit nothing is received: messages wait in their queue, and use up no receives and no attempts.
"""

from melange.flow.circuit_breaker import CircuitBreaker
from melange.flow.rate_limit import RateLimit

__all__ = ["CircuitBreaker", "RateLimit"]
