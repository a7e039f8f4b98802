"""Topics and subscriptions as they are kept, and how calls name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from melange.engine.fifo import DeduplicationWindow
from melange.server.calls import Call
from melange.server.errors import ServiceError, invalid_parameter, not_authorized
from melange.server.policies import Access, Policy
from melange.server.sns.filter_policies import FilterPolicy

DEFAULT_MAX_BYTES = 262_144

_ARN_PARTS = 6

_RETRY_POLICY = {
    "minDelayTarget": 20,
    "maxDelayTarget": 20,
    "numRetries": 3,
    "numMaxDelayRetries": 0,
    "numNoDelayRetries": 0,
    "numMinDelayRetries": 0,
    "backoffFunction": "linear",
}
_CONTENT_TYPE = "text/plain; charset=UTF-8"
OWNER_ACTIONS = (
    "GetTopicAttributes",
    "SetTopicAttributes",
    "AddPermission",
    "RemovePermission",
    "DeleteTopic",
    "Subscribe",
    "ListSubscriptionsByTopic",
    "Publish",
)


class Subscription:
    """What one endpoint gets of a topic. Guarded by the broker's lock."""

    def __init__(
        self,
        arn: str,
        topic: Topic,
        *,
        protocol: str,
        endpoint: str,
        owner: str,
        token: str,
        is_pending: bool,
    ) -> None:
        self.arn = arn
        self.topic = topic
        self.protocol = protocol
        self.endpoint = endpoint
        self.owner = owner
        self.token = token
        self.is_pending = is_pending
        self.was_confirmed_by_call = not is_pending
        self.attributes: dict[str, str] = {"RawMessageDelivery": "false"}
        self.filter_policy: FilterPolicy | None = None
        self.is_raw = False
        self.dead_letter_arn: str | None = None
        self.last_refusal = ""
        """Why the last message could not be delivered to a queue; "" if it was."""

    def set_attributes(self, changes: dict[str, str], filter_policy: FilterPolicy | None) -> None:
        """Take values that were checked; an empty one removes its attribute."""
        for name, value in changes.items():
            if value:
                self.attributes[name] = value
            else:
                self.attributes.pop(name, None)
        if "FilterPolicy" in self.attributes:
            self.attributes.setdefault("FilterPolicyScope", "MessageAttributes")
        self.filter_policy = filter_policy
        self.is_raw = self.attributes["RawMessageDelivery"] == "true"
        redrive = self.attributes.get("RedrivePolicy")
        self.dead_letter_arn = json.loads(redrive)["deadLetterTargetArn"] if redrive else None

    @property
    def retry_policy(self) -> dict[str, Any]:
        """How often, and how many seconds apart, a delivery over HTTP is tried again."""
        own = json.loads(self.attributes.get("DeliveryPolicy") or "{}")
        return _RETRY_POLICY | (own.get("healthyRetryPolicy") or self.topic.retry_policy)

    @property
    def content_type(self) -> str:
        """The content type of deliveries over HTTP."""
        own = json.loads(self.attributes.get("DeliveryPolicy") or "{}")
        found: str = (own.get("requestPolicy") or {}).get("headerContentType") or self.topic.content_type
        return found

    def described(self) -> dict[str, str]:
        """Return the attributes as SNS shows them."""
        shown = {
            "ConfirmationWasAuthenticated": "true" if self.was_confirmed_by_call else "false",
            "Endpoint": self.endpoint,
            "Owner": self.owner,
            "PendingConfirmation": "true" if self.is_pending else "false",
            "Protocol": self.protocol,
            "SubscriptionArn": self.arn,
            "SubscriptionPrincipal": f"arn:aws:iam::{self.owner}:user/melange",
            "TopicArn": self.topic.arn,
        }
        if "DeliveryPolicy" in self.attributes:
            shown["EffectiveDeliveryPolicy"] = json.dumps(
                {
                    "healthyRetryPolicy": self.retry_policy,
                    "sicklyRetryPolicy": None,
                    "throttlePolicy": None,
                    "requestPolicy": {"headerContentType": self.content_type},
                    "guaranteed": False,
                }
            )
        hidden = () if "FilterPolicy" in self.attributes else ("FilterPolicyScope",)
        return shown | {name: value for name, value in self.attributes.items() if name not in hidden}


class Topic:
    """A topic by its ARN. Guarded by the broker's lock."""

    def __init__(self, arn: str, attributes: dict[str, str], tags: dict[str, str]) -> None:
        self.arn = arn
        _, _, _, self.region, self.account, self.name = arn.split(":")
        self.is_fifo = attributes.get("FifoTopic") == "true"
        self.tags = tags
        self.given = dict(attributes)
        """The attributes that were set, as creating the topic again compares them."""
        self.attributes = {"DisplayName": "", "Policy": json.dumps(self._default_policy())}
        if self.is_fifo:
            self.attributes |= {"ContentBasedDeduplication": "false", "FifoTopic": "true"}
        self.subscriptions: dict[str, Subscription] = {}
        self.deleted_subscriptions = 0
        self.window: DeduplicationWindow[tuple[str, str]] = DeduplicationWindow()
        self.sequence = 0
        self.set_attributes(attributes)

    def set_attributes(self, changes: dict[str, str]) -> None:
        """Take values that were checked."""
        kept = {name: value for name, value in changes.items() if name != "FifoTopic"}
        self.given |= kept
        self.attributes |= kept
        if not self.attributes["Policy"]:
            self.attributes["Policy"] = json.dumps(self._default_policy())
        self.policy = Policy.parse(self.attributes["Policy"])
        self.hashes_content = self.attributes.get("ContentBasedDeduplication") == "true"
        self.max_message_bytes = int(self.attributes.get("MaximumMessageSize", DEFAULT_MAX_BYTES))
        self.signature_version = self.attributes.get("SignatureVersion", "1")

    @property
    def retry_policy(self) -> dict[str, Any]:
        """The retry policy of its subscriptions that have none of their own."""
        found: dict[str, Any] = self._http_policy().get("defaultHealthyRetryPolicy") or {}
        return found

    @property
    def content_type(self) -> str:
        """The content type of deliveries over HTTP."""
        found: str = (self._http_policy().get("defaultRequestPolicy") or {}).get(
            "headerContentType", _CONTENT_TYPE
        )
        return found

    def described(self) -> dict[str, str]:
        """Return the attributes as SNS shows them."""
        pending = sum(subscription.is_pending for subscription in self.subscriptions.values())
        effective = {
            "http": {
                "defaultHealthyRetryPolicy": _RETRY_POLICY | self.retry_policy,
                "disableSubscriptionOverrides": False,
                "defaultRequestPolicy": {"headerContentType": self.content_type},
            }
        }
        return {
            "EffectiveDeliveryPolicy": json.dumps(effective),
            "Owner": self.account,
            "SubscriptionsConfirmed": str(len(self.subscriptions) - pending),
            "SubscriptionsDeleted": str(self.deleted_subscriptions),
            "SubscriptionsPending": str(pending),
            "TopicArn": self.arn,
        } | self.attributes

    def next_sequence_number(self) -> str:
        """Return the number of a FIFO topic's next message."""
        self.sequence += 1
        return f"{10_000_000_000_000_000_000 + self.sequence * 1_000}"

    def _http_policy(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.attributes.get("DeliveryPolicy") or "{}").get("http") or {}
        return found

    def _default_policy(self) -> dict[str, Any]:
        return {
            "Version": "2008-10-17",
            "Id": "__default_policy_ID",
            "Statement": [
                {
                    "Sid": "__default_statement_ID",
                    "Effect": "Allow",
                    "Principal": {"AWS": "*"},
                    "Action": [f"SNS:{action}" for action in OWNER_ACTIONS],
                    "Resource": self.arn,
                    "Condition": {"StringEquals": {"AWS:SourceOwner": self.account}},
                }
            ],
        }


def check_delivery_policy(policy: Mapping[str, Any], retry_name: str, request_name: str, prefix: str) -> None:
    """Raise if the retry policy, or the content type, of deliveries over HTTP cannot be followed."""
    retry, request = policy.get(retry_name) or {}, policy.get(request_name) or {}
    for name, one in ((retry_name, retry), (request_name, request)):
        if not isinstance(one, dict):
            raise invalid_parameter(f"{prefix}DeliveryPolicy: {name} must be an object")
    for name, value in retry.items():
        if isinstance(_RETRY_POLICY.get(name), int) and (type(value) is not int or value < 0):
            raise invalid_parameter(f"{prefix}DeliveryPolicy: {name} must be a whole number")
    if not isinstance(request.get("headerContentType", ""), str):
        raise invalid_parameter(f"{prefix}DeliveryPolicy: headerContentType must be text")


def topic_arn(region: str, account: str, name: str) -> str:
    """Return the ARN of a topic."""
    return f"arn:aws:sns:{region}:{account}:{name}"


def check_topic_arn(call: Call, parameter: str = "TopicArn") -> str:
    """Return the ARN in a parameter, or raise what SNS answers to one that is malformed or of another region."""
    arn: str | None = call.parameters.get(parameter)
    if arn is None:
        raise invalid_parameter(f"{parameter} Reason: no value for required parameter")
    parts = arn.split(":")
    if len(parts) < _ARN_PARTS:
        raise invalid_parameter(f"{parameter} Reason: An ARN must have at least 6 elements, not {len(parts)}")
    if parts[:3] != ["arn", "aws", "sns"] or parts[3] != call.region or len(parts) != _ARN_PARTS:
        raise invalid_parameter(parameter)
    return arn


def find_topic(call: Call, action: str, parameter: str = "TopicArn") -> Topic:
    """Return the topic that a parameter names.

    Raises:
        ServiceError: it does not exist, or its policy forbids the action to the caller.
    """
    topic = call.broker.topics.get(check_topic_arn(call, parameter))
    if topic is None and parameter == "TargetArn":
        raise invalid_parameter("TargetArn Reason: No endpoint found for the target arn specified")
    if topic is None:
        raise ServiceError("NotFound", "Topic does not exist", 404)
    check_access(call, topic, action)
    return topic


def check_access(call: Call, topic: Topic, action: str) -> None:
    """Raise if the topic's policy forbids the action to the caller, or does not allow it to another account."""
    access = Access(call.account, f"SNS:{action}", topic.arn, source_account=call.account)
    is_owner = call.account == topic.account
    if topic.policy.denies(access) or not (is_owner or topic.policy.allows(access)):
        raise not_authorized("AuthorizationError", call.account, access.action, topic.arn)
