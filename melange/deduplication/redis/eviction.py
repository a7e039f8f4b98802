"""Whether Redis may throw marks away."""

from __future__ import annotations

import logging

from redis import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from melange.deduplication.redis.clients import Client

logger = logging.getLogger(__name__)

_KEEPS_MARKS = "noeviction"


class EvictionWarning:
    """Warns when Redis was told to evict keys once its memory is full.

    Every other policy than ``noeviction`` may take marks: ``volatile-*`` chooses among the keys that expire,
    as ours do.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked = False
        self._warned_of: set[str] = set()

    def look(self) -> None:
        """Ask Redis once, and warn of each policy once."""
        if self._looked:
            return
        self._looked = True
        for policy in _policies(self._client) - self._warned_of - {_KEEPS_MARKS}:
            self._warned_of.add(policy)
            logger.warning(
                "Redis evicts keys when its memory is full (maxmemory-policy %s): messages whose marks are gone "
                "can run again. Use a Redis with noeviction for deduplication",
                policy,
            )

    def look_again(self) -> None:
        """Ask once more at the next occasion: Redis may come back as another one."""
        self._looked = False


def _policies(client: Client) -> set[str]:
    """Return the eviction policies of all nodes that have a limit; none where Redis does not tell."""
    try:
        # INFO rather than CONFIG, which managed services refuse.
        if isinstance(client, RedisCluster):
            answer = client.info("memory", target_nodes=RedisCluster.PRIMARIES)
        else:
            answer = client.info("memory")
    except (RedisError, RedisClusterException):
        logger.debug("Redis does not tell its eviction policy", exc_info=True)
        return set()
    # From several nodes comes one dict for each.
    nodes = [node for node in answer.values() if isinstance(node, dict)] or [answer]
    return {
        node["maxmemory_policy"] for node in nodes if node.get("maxmemory") and "maxmemory_policy" in node
    }
