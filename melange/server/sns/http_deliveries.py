"""Deliveries to HTTP endpoints, in the background and with retries."""

from __future__ import annotations

import heapq
import http.client
import logging
import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from melange.server.errors import ServiceError
from melange.server.sns.delivering import dead_letter
from melange.server.sns.notifications import HttpMessage, Notification
from melange.server.sns.topics import Subscription

if TYPE_CHECKING:
    from melange.server.broker import Broker

logger = logging.getLogger(__name__)

_WORKERS = 8
_TIMEOUT_SECONDS = 15
_LONGEST_WAIT_SECONDS = 3_600.0


@dataclass(slots=True)
class HttpDelivery:
    """A message for an HTTP endpoint that has not been accepted yet."""

    id: int
    subscription: Subscription
    message: HttpMessage
    due_at: float
    failures: int = 0

    def kept(self) -> dict[str, Any]:
        """Return it as plain values."""
        message, notification = self.message, self.message.notification
        attributes = notification.attributes if notification is not None else {}
        return {
            "id": self.id,
            "subscription_arn": self.subscription.arn,
            "due_at": self.due_at,
            "failures": self.failures,
            "kind": message.kind,
            "message_id": message.message_id,
            "body": message.body,
            "is_raw": message.is_raw,
            "group_id": notification and notification.group_id,
            "deduplication_id": notification and notification.deduplication_id,
            "attributes": {
                name: {
                    key: b64encode(value).decode() if key == "BinaryValue" else value
                    for key, value in attribute.items()
                }
                for name, attribute in attributes.items()
            },
        }

    @classmethod
    def restored(
        cls, subscriptions: Mapping[str, Subscription], kept: dict[str, Any], later: float
    ) -> Self | None:
        """Return the delivery of these values, due ``later`` seconds later; None if its subscription is gone."""
        subscription = subscriptions.get(kept["subscription_arn"])
        if subscription is None:
            return None
        notification = None
        if kept["kind"] == "Notification":
            notification = Notification(
                subscription.topic,
                kept["message_id"],
                {"default": kept["body"]},
                {
                    name: {
                        key: b64decode(value) if key == "BinaryValue" else value
                        for key, value in attribute.items()
                    }
                    for name, attribute in kept["attributes"].items()
                },
                base_url="",
                timestamp="",
                group_id=kept["group_id"],
                deduplication_id=kept["deduplication_id"],
            )
        message = HttpMessage(kept["kind"], kept["message_id"], kept["body"], kept["is_raw"], notification)
        return cls(kept["id"], subscription, message, kept["due_at"] + later, kept["failures"])


class HttpDeliveries:
    """Sends messages to HTTP endpoints. Threads start with the first message.

    What is not accepted yet is kept, and guarded by the broker's lock. Threads wait for their next delivery under a
    lock of their own, which is taken after the broker's.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._pending: dict[int, HttpDelivery] = {}
        self._last_id = 0
        self._due: list[tuple[float, int, HttpDelivery]] = []
        self._condition = threading.Condition(threading.Lock())
        self._is_closed = False
        self._workers: list[threading.Thread] = []

    def add(self, subscription: Subscription, message: HttpMessage) -> None:
        """Send a message soon. The caller holds the broker's lock; this does not block."""
        self.resume(HttpDelivery(self._last_id + 1, subscription, message, self._broker.now()))

    def resume(self, delivery: HttpDelivery) -> None:
        """Go on with a delivery that was kept. The caller holds the broker's lock."""
        self._last_id = max(self._last_id, delivery.id)
        self._pending[delivery.id] = delivery
        self._changed(delivery)
        while len(self._workers) < _WORKERS:
            worker = threading.Thread(target=self._work, name="melange-http-delivery", daemon=True)
            self._workers.append(worker)
            worker.start()
        self._schedule(delivery)

    def pending(self) -> list[HttpDelivery]:
        """Return what is not accepted yet. The caller holds the broker's lock."""
        return list(self._pending.values())

    def find(self, delivery_id: int) -> HttpDelivery | None:
        """Return a delivery that is not accepted yet. The caller holds the broker's lock."""
        return self._pending.get(delivery_id)

    def clear(self) -> None:
        """Forget all deliveries. The caller holds the broker's lock."""
        for delivery in self._pending.values():
            self._changed(delivery)
        self._pending.clear()
        with self._condition:
            self._due.clear()

    def wake(self) -> None:
        """Look again for deliveries that are due: the clock was moved."""
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """End the threads after the delivery that each is at. Idempotent."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _schedule(self, delivery: HttpDelivery) -> None:
        with self._condition:
            heapq.heappush(self._due, (delivery.due_at, delivery.id, delivery))
            self._condition.notify()

    def _next(self) -> HttpDelivery | None:
        """Block until a delivery is due, and return it; None once this is closed."""
        with self._condition:
            while not self._is_closed:
                if not self._due:
                    self._condition.wait()
                    continue
                seconds = self._due[0][0] - self._broker.now()
                if seconds <= 0:
                    return heapq.heappop(self._due)[2]
                self._broker.clock.wait(self._condition, min(seconds, _LONGEST_WAIT_SECONDS))
            return None

    def _work(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                status = _post(delivery.subscription, delivery.message)
                reason = "" if 200 <= status < 300 else f"status {status}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, reason = 0, str(error) or type(error).__name__
            # Errors of the client are not tried again, as on AWS.
            is_final = 400 <= status < 500 and status != 429
            with self._broker.lock:
                if self._pending.get(delivery.id) is delivery:  # it may have been forgotten meanwhile
                    self._settle(delivery, reason, is_final=is_final)
            if self._is_closed:
                return
            try:
                self._broker.commit(is_topology_changed=False)
            except ServiceError:
                logger.exception("the outcome of an HTTP delivery is not kept")

    def _settle(self, delivery: HttpDelivery, reason: str, *, is_final: bool) -> None:
        subscription = delivery.subscription
        policy = subscription.retry_policy
        self._changed(delivery)
        self._broker.event_log.add(
            "HTTP delivery failed" if reason else "delivered over HTTP",
            self._broker.now(),
            subscription.topic.arn,
            delivery.message.message_id,
            None,
            (subscription.endpoint, reason),
        )
        if reason and not is_final and delivery.failures < policy["numRetries"]:
            delivery.failures += 1
            delivery.due_at = self._broker.now() + policy["minDelayTarget"]
            self._schedule(delivery)
            return
        del self._pending[delivery.id]
        if reason:
            self._give_up(delivery, reason)

    def _give_up(self, delivery: HttpDelivery, reason: str) -> None:
        message = delivery.message
        logger.info("no delivery to the endpoint of %s: %s", delivery.subscription.arn, reason)
        if message.notification is not None:
            attributes = message.notification.attributes if message.is_raw else {}
            dead_letter(
                self._broker,
                delivery.subscription,
                message.notification,
                message.body,
                attributes,
                reason=reason,
            )

    def _changed(self, delivery: HttpDelivery) -> None:
        if self._broker.storage is not None:
            self._broker.storage.delivery_changed(delivery.id)


def _post(subscription: Subscription, message: HttpMessage) -> int:
    """Send a message; return the status of the answer."""
    url = urlsplit(subscription.endpoint)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT_SECONDS)
    headers = {
        "Content-Type": subscription.content_type,
        "Accept-Encoding": "gzip,deflate",
        "Connection": "Keep-Alive",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-id": message.message_id,
        "x-amz-sns-message-type": message.kind,
        "x-amz-sns-topic-arn": subscription.topic.arn,
    }
    if message.kind == "Notification":
        headers["x-amz-sns-subscription-arn"] = subscription.arn
    if message.is_raw:
        headers["x-amz-sns-rawdelivery"] = "true"
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, message.body.encode(), headers)
        with connection.getresponse() as response:
            response.read(65_536)
            return response.status
    finally:
        connection.close()
