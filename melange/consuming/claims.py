"""The claims of running listeners on the deduplication store, and the marks of finished ones."""

from __future__ import annotations

import logging
import threading
from collections import deque

from melange.consuming.leases import Lease
from melange.consuming.options import Deduplication
from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    content_of,
)
from melange.errors import DeduplicationError
from melange.messages import Delivery, new_token

logger = logging.getLogger(__name__)

MOST_REMEMBERED_CLAIMS = 1_000


class StoreUnavailableError(DeduplicationError):
    """The store itself failed. A ``DeduplicationError`` of a listener or a hook does not become this one."""


class Claims:
    """Claims listeners for messages before they run, and marks or releases them afterwards. Thread-safe.

    Each method raises ``StoreUnavailableError`` while the store is unavailable, unless it says otherwise.
    """

    def __init__(self, store: DeduplicationStore, deduplication: Deduplication) -> None:
        self.store = store
        self._runs_without = deduplication.on_unavailable == "process"
        self._by_broker_id = deduplication.identity == "broker"
        self._unanswered: deque[Claimed] = deque(maxlen=MOST_REMEMBERED_CLAIMS)

    def claim(
        self, listener_name: str, delivery: Delivery, lease_seconds: float
    ) -> Claimed | ClaimRefusal | None:
        """Claim the listener for the message; None if it may run without, because the store is unavailable."""
        message = delivery.message
        message_id = (self._by_broker_id and delivery.broker_message_id) or message.message_id
        key = DeduplicationKey(delivery.queue.address, listener_name, message_id, content_of(message))
        token = new_token()
        try:
            if self._unanswered:
                self.release_unanswered()
            return self.store.claim(key, token, lease_seconds)
        except DeduplicationError as error:
            # It may have been granted all the same, with the answer lost: released when the store can be asked.
            self._unanswered.append(Claimed(key, token))
            if self._runs_without:
                return None
            raise StoreUnavailableError(str(error)) from error

    def complete(self, claimed: Claimed, lease: Lease) -> bool:
        """Mark the listener as finished; return False if the claim was lost. The listener has run: wait for the store.

        An error other than ``StoreUnavailableError`` says that the listener failed after all.
        """
        pause_seconds = 0.1
        # From now on the answer to the completion decides if the claim was held, not a renewal.
        lease.is_completing = True
        while True:
            lease.claimed = None
            try:
                return self.store.complete(claimed)
            except DeduplicationError as error:
                if self._runs_without:
                    return True
                lease.claimed = claimed
                if lease.is_lost():
                    raise StoreUnavailableError(str(error)) from error
                logger.warning("message %s is done, its mark waits: %s", claimed.key.message_id, error)
                threading.Event().wait(pause_seconds)
                pause_seconds = min(1.0, 2 * pause_seconds)

    def abandon(self, claimed: Claimed, *, began: bool) -> None:
        """Release the claim. If that fails it ends with its lease, which must not hide how the listener ended."""
        try:
            self.store.abandon(claimed, began=began)
        except DeduplicationError as error:
            logger.warning("the claim on message %s could not be released: %s", claimed.key.message_id, error)

    def release_unanswered(self) -> None:
        """Release the claims that were granted in an answer that got lost: the listeners did not run.

        Raises:
            DeduplicationError: the store is unavailable.
        """
        while True:
            try:
                claimed = self._unanswered.popleft()
            except IndexError:
                return
            try:
                self.store.abandon(claimed, began=False)
            except DeduplicationError:
                self._unanswered.append(claimed)
                raise
