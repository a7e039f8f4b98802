"""Runs each listener once per message: claimed before, completed or abandoned after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from melange.consuming.leases import Lease
from melange.consuming.middleware import ListenerCall, Middleware
from melange.consuming.outcomes import ACKNOWLEDGE, LEAVE, Acknowledge, Outcome, Retry
from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    content_digest,
)
from melange.errors import DeduplicationError
from melange.failpoints import fail_point
from melange.messages import new_token

logger = logging.getLogger(__name__)


class OncePerMessage(Middleware):
    """The innermost middleware of a consumer that has a deduplication store."""

    def __init__(
        self,
        store: DeduplicationStore,
        backoff: Callable[[int], float],
        on_unavailable: Literal["retry", "process"],
    ) -> None:
        self._store = store
        self._backoff = backoff
        self._on_unavailable = on_unavailable

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        """Run the listener unless it has finished this message before or somebody is at it.

        Raises:
            DeduplicationError: the store can't be asked; nothing was decided.
        """
        lease = call.lease
        store, message = self._store, lease.delivery.message
        key = DeduplicationKey(
            lease.delivery.queue.address, call.subscription.name, message.message_id, content_digest(message)
        )
        try:
            claimed = store.claim(key, new_token(), lease.remaining_seconds)
        except DeduplicationError:
            if self._on_unavailable == "retry":
                raise
            return run(call)
        if not isinstance(claimed, Claimed):
            return self._refused(claimed, call)
        lease.claim = claimed
        fail_point("after-claim")
        try:
            outcome = run(call)
            if isinstance(outcome, Acknowledge):
                return self._completed(claimed, lease)
        except BaseException:  # KeyboardInterrupt, SystemExit: not done, and nobody should wait for us
            self._abandon(claimed)
            raise
        finally:
            lease.claim = None
        self._abandon(claimed)
        return outcome

    def _completed(self, claimed: Claimed, lease: Lease) -> Outcome:
        """Mark the listener as finished; wait for a store that is away, since the effect is there already."""
        fail_point("before-mark")
        pause_seconds = 0.1
        while True:
            try:
                is_marked = self._store.complete(claimed)
            except DeduplicationError as error:
                if self._on_unavailable == "process":
                    return ACKNOWLEDGE
                if lease.is_lost():
                    raise
                logger.warning("message %s is done, its mark waits: %s", claimed.key.message_id, error)
                threading.Event().wait(pause_seconds)
                pause_seconds = min(1.0, 2 * pause_seconds)
            else:
                fail_point("after-mark")
                # A claim that was lost meanwhile is somebody else's work by now: not ours to acknowledge.
                return ACKNOWLEDGE if is_marked else LEAVE

    def _abandon(self, claimed: Claimed) -> None:
        try:
            self._store.abandon(claimed)
        except (
            DeduplicationError
        ) as error:  # it ends with its lease: that must not hide how the listener ended
            logger.warning(
                "the claim on message %s could not be given back: %s", claimed.key.message_id, error
            )

    def _refused(self, refusal: ClaimRefusal, call: ListenerCall) -> Outcome:
        if refusal is ClaimRefusal.DONE:
            return ACKNOWLEDGE
        # Busy is no failed attempt, so it never rejects.
        return Retry(self._backoff(call.lease.attempt), counts=False)
