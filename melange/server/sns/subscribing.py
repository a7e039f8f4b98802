"""Operations on subscriptions."""

from __future__ import annotations

import json
import re
from typing import Any

from melange.messages import new_uuid
from melange.server.calls import Call, Parameters, page
from melange.server.errors import ServiceError, invalid_parameter, not_authorized
from melange.server.sns.filter_policies import FilterPolicy, FilterPolicyError, NestedPolicyError
from melange.server.sns.managing_topics import PAGE_SIZE
from melange.server.sns.notifications import subscription_confirmation
from melange.server.sns.topics import Subscription, Topic, check_delivery_policy, find_topic

_PROTOCOLS = {"http", "https", "email", "email-json", "sms", "sqs", "application", "lambda", "firehose"}
_TO_BE_CONFIRMED = {"http", "https", "email", "email-json"}
_DOCUMENTS = ("DeliveryPolicy", "FilterPolicy", "RedrivePolicy", "ReplayPolicy")
_SCOPES = ("MessageAttributes", "MessageBody")
_IGNORED = ("SubscriptionRoleArn",)
_PENDING = "PendingConfirmation"
_TOKEN_LENGTH = 64
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ARN_PARTS = 6


def subscribe(call: Call) -> Parameters:
    parameters, broker = call.parameters, call.broker
    protocol, endpoint = parameters.get("Protocol", ""), parameters.get("Endpoint", "")
    given = parameters.get("Attributes", {})
    with broker.lock:
        topic = find_topic(call, "Subscribe")
        _check_endpoint(topic, protocol, endpoint)
        existing = next(
            (
                one
                for one in topic.subscriptions.values()
                if (one.protocol, one.endpoint) == (protocol, endpoint)
            ),
            None,
        )
        subscription = existing or Subscription(
            f"{topic.arn}:{new_uuid()}",
            topic,
            protocol=protocol,
            endpoint=endpoint,
            owner=call.account,
            token=broker.new_token() + broker.new_token(),
            is_pending=protocol in _TO_BE_CONFIRMED,
        )
        checked, filter_policy = _check_attributes(subscription, given, prefix="Attributes Reason: ")
        if existing is not None:
            if not all(_is_same(existing, name, value) for name, value in checked.items()):
                raise invalid_parameter(
                    "Attributes Reason: Subscription already exists with different attributes"
                )
        else:
            subscription.set_attributes(checked, filter_policy)
            topic.subscriptions[subscription.arn] = broker.subscriptions[subscription.arn] = subscription
        is_pending = subscription.is_pending
        if is_pending and protocol in {"http", "https"}:
            broker.http_deliveries.add(subscription, subscription_confirmation(call, subscription))
    shown = not is_pending or parameters.get("ReturnSubscriptionArn")
    return {"SubscriptionArn": subscription.arn if shown else "pending confirmation"}


def confirm_subscription(call: Call) -> Parameters:
    arn, token = call.parameters.get("TopicArn", ""), call.parameters.get("Token", "")
    parts = arn.split(":")
    if len(parts) != 6 or parts[2] != "sns":
        raise invalid_parameter("Topic")
    with call.broker.lock:
        subscription = next((one for one in call.broker.subscriptions.values() if one.token == token), None)
        if subscription is None or len(token) != _TOKEN_LENGTH:
            raise invalid_parameter("Token")
        if subscription.topic.region != parts[3]:
            raise invalid_parameter("Topic")
        subscription.is_pending = False
        subscription.was_confirmed_by_call = bool(call.caller.access_key_id)
    return {"SubscriptionArn": subscription.arn}


def unsubscribe(call: Call) -> Parameters:
    arn = _check_arn(call.parameters.get("SubscriptionArn"))
    with call.broker.lock:
        subscription = call.broker.subscriptions.get(arn)
        if subscription is not None:
            if call.caller.access_key_id:  # recipients follow the address in a notification, and sign nothing
                _check_owner(call, subscription, "Unsubscribe")
            del call.broker.subscriptions[arn]
            subscription.topic.subscriptions.pop(arn, None)
            subscription.topic.deleted_subscriptions += 1
            if subscription.protocol in {"http", "https"} and not subscription.is_pending:
                subscription.token = call.broker.new_token() + call.broker.new_token()
                message = subscription_confirmation(call, subscription, is_unsubscribe=True)
                call.broker.http_deliveries.add(subscription, message)
    return {}


def get_subscription_attributes(call: Call) -> Parameters:
    with call.broker.lock:
        return {"Attributes": _find(call, "GetSubscriptionAttributes").described()}


def set_subscription_attributes(call: Call) -> Parameters:
    name, value = call.parameters.get("AttributeName", ""), call.parameters.get("AttributeValue", "")
    with call.broker.lock:
        subscription = _find(call, "SetSubscriptionAttributes")
        subscription.set_attributes(*_check_attributes(subscription, {name: value}))
    return {}


def list_subscriptions(call: Call) -> Parameters:
    with call.broker.lock:
        found = [
            one
            for one in call.broker.subscriptions.values()
            if (one.topic.region, one.topic.account) == (call.region, call.account)
        ]
        return _page(call, found)


def list_subscriptions_by_topic(call: Call) -> Parameters:
    with call.broker.lock:
        topic = find_topic(call, "ListSubscriptionsByTopic")
        return _page(call, list(topic.subscriptions.values()))


def _page(call: Call, subscriptions: list[Subscription]) -> Parameters:
    chosen, token = page(subscriptions, call.parameters.get("NextToken"), PAGE_SIZE)
    shown = [
        {
            "SubscriptionArn": _PENDING if one.is_pending else one.arn,
            "Owner": one.owner,
            "Protocol": one.protocol,
            "Endpoint": one.endpoint,
            "TopicArn": one.topic.arn,
        }
        for one in chosen
    ]
    return {"Subscriptions": shown} | ({"NextToken": token} if token else {})


def _find(call: Call, action: str) -> Subscription:
    arn = _check_arn(call.parameters.get("SubscriptionArn"))
    subscription = call.broker.subscriptions.get(arn)
    if subscription is None:
        raise ServiceError("NotFound", "Subscription does not exist", 404)
    _check_owner(call, subscription, action)
    return subscription


def _check_owner(call: Call, subscription: Subscription, action: str) -> None:
    """Raise unless the subscription, or its topic, is the caller's."""
    if call.account not in {subscription.owner, subscription.topic.account}:
        raise not_authorized("AuthorizationError", call.account, f"SNS:{action}", subscription.arn)


def _check_arn(arn: str | None) -> str:
    """Return the ARN, or raise what SNS answers to one that is malformed."""
    if not arn:
        raise invalid_parameter("SubscriptionArn Reason: no value for required parameter")
    parts = arn.split(":")
    if len(parts) < _ARN_PARTS:
        raise invalid_parameter(
            f"SubscriptionArn Reason: An ARN must have at least 6 elements, not {len(parts)}"
        )
    if not _ID.fullmatch(parts[-1]) or len(parts) != _ARN_PARTS + 1:
        raise invalid_parameter("SubscriptionId")
    return arn


def _check_endpoint(topic: Topic, protocol: str, endpoint: str) -> None:
    if protocol not in _PROTOCOLS:
        raise invalid_parameter(f"Amazon SNS does not support this protocol string: {protocol}")
    if not endpoint:
        raise invalid_parameter("Endpoint Reason: no value for required parameter")
    if protocol in {"http", "https"} and not endpoint.startswith(f"{protocol}://"):
        raise invalid_parameter("Endpoint must match the specified protocol")
    if protocol == "sqs":
        parts = endpoint.split(":")
        # It is logged, so it must not end a line.
        if len(parts) != 6 or parts[:1] + parts[2:3] != ["arn", "sqs"] or not endpoint.isprintable():
            raise invalid_parameter("SQS endpoint ARN")
        if endpoint.endswith(".fifo") and not topic.is_fifo:
            raise invalid_parameter(
                "Invalid parameter: Endpoint Reason: FIFO SQS Queues can not be subscribed to standard SNS topics"
            )
    elif topic.is_fifo:
        raise invalid_parameter(f"Invalid protocol type: {protocol}")


def _check_attributes(
    subscription: Subscription, given: dict[str, str], prefix: str = ""
) -> tuple[dict[str, str], FilterPolicy | None]:
    """Return the values as they are kept and the filter policy that results, or raise what SNS answers."""
    checked = {name: _check_attribute(subscription, name, value, prefix) for name, value in given.items()}
    kept = subscription.attributes | checked
    text = kept.get("FilterPolicy", "")
    if not text:
        return checked, None
    reads_body = kept.get("FilterPolicyScope") == "MessageBody"
    try:
        return checked, FilterPolicy(text, reads_body=reads_body)
    except NestedPolicyError as error:
        raise invalid_parameter(str(error)) from None
    except FilterPolicyError as error:
        raise invalid_parameter(f"{prefix}FilterPolicy: {error}") from None


def _check_attribute(subscription: Subscription, name: str, value: str, prefix: str) -> str:
    if name == "RawMessageDelivery":
        if value.lower() not in {"true", "false"}:
            raise invalid_parameter(
                f"{prefix}RawMessageDelivery: Invalid value [{value}]. Must be true or false."
            )
        return value.lower()
    if name == "FilterPolicyScope":
        if value not in _SCOPES:
            raise invalid_parameter(
                f"{prefix}FilterPolicyScope: Invalid value [{value}]. Please use either MessageBody or MessageAttributes"
            )
        return value
    if name in _DOCUMENTS:
        if not value or (name == "FilterPolicy" and value.strip() == "{}"):
            return ""
        document = _parse(name, value, prefix)
        if name == "DeliveryPolicy":
            check_delivery_policy(document, "healthyRetryPolicy", "requestPolicy", prefix)
        if name == "RedrivePolicy":
            _check_redrive_policy(subscription, document, prefix)
        return value
    if name in _IGNORED:
        return value
    raise invalid_parameter("AttributeName" if not prefix else f"{prefix}Unknown attribute {name}")


def _parse(name: str, value: str, prefix: str) -> dict[str, Any]:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise invalid_parameter(f"{prefix}{name}: failed to parse JSON. {error}") from None
    if not isinstance(document, dict):
        raise invalid_parameter(f"{prefix}{name}: failed to parse JSON. It is not an object")
    return document


def _check_redrive_policy(subscription: Subscription, document: dict[str, Any], prefix: str) -> None:
    target = document.get("deadLetterTargetArn")
    if not isinstance(target, str) or len(target.split(":")) != 6 or target.split(":")[2] != "sqs":
        raise invalid_parameter(f"{prefix}RedrivePolicy: deadLetterTargetArn is an invalid arn")
    if (
        subscription.topic.is_fifo
        and subscription.endpoint.endswith(".fifo")
        and not target.endswith(".fifo")
    ):
        raise invalid_parameter(
            f"{prefix}RedrivePolicy: must use a FIFO queue as DLQ for a FIFO Subscription to a FIFO Topic."
        )


def _is_same(existing: Subscription, name: str, value: str) -> bool:
    current = existing.attributes.get(name, _SCOPES[0] if name == "FilterPolicyScope" else "")
    if name in _DOCUMENTS and current and value:
        same: bool = json.loads(current) == json.loads(value)
        return same
    return current == value
