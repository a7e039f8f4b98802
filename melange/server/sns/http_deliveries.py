"""Deliveries to HTTP endpoints, in the background and with retries."""

from __future__ import annotations

import http.client
import logging
import queue
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from melange.server.sns.notifications import HttpMessage
from melange.server.sns.topics import Subscription

if TYPE_CHECKING:
    from melange.server.broker import Broker

logger = logging.getLogger(__name__)

_WORKERS = 8
_TIMEOUT_SECONDS = 15


class HttpDeliveries:
    """Sends messages to HTTP endpoints. Threads start with the first message. Thread-safe."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: queue.SimpleQueue[tuple[Subscription, HttpMessage, int]] = queue.SimpleQueue()
        self._workers: list[threading.Thread] = []

    def add(self, subscription: Subscription, message: HttpMessage) -> None:
        """Send a message soon. The caller holds the broker's lock; this does not block."""
        while len(self._workers) < _WORKERS:
            worker = threading.Thread(target=self._work, name="melange-http-delivery", daemon=True)
            self._workers.append(worker)
            worker.start()
        self._waiting.put((subscription, message, 0))

    def _work(self) -> None:
        while True:
            subscription, message, failures = self._waiting.get()
            try:
                status = _post(subscription, message)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, reason = 0, str(error)
            else:
                reason = f"status {status}"
            if 200 <= status < 300:
                continue
            # Errors of the client are not tried again, as on AWS.
            is_final = 400 <= status < 500 and status != 429
            policy = subscription.retry_policy
            if is_final or failures >= policy["numRetries"]:
                self._give_up(subscription, message, reason)
            else:
                again = (subscription, message, failures + 1)
                timer = threading.Timer(policy["minDelayTarget"], self._waiting.put, [again])
                timer.daemon = True
                timer.start()

    def _give_up(self, subscription: Subscription, message: HttpMessage, reason: str) -> None:
        from melange.server.sns.delivering import dead_letter  # noqa: PLC0415 - delivering needs this module

        logger.info("no delivery to the endpoint of %s: %s", subscription.arn, reason)
        if message.notification is not None:
            attributes = message.notification.attributes if message.is_raw else {}
            with self._broker.lock:
                dead_letter(self._broker, subscription, message.notification, message.body, attributes)


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
