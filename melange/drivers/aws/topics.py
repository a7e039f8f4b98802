"""Topics: created, reconciled with what the caller named, found by name or ARN."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from melange.drivers.aws.clients import BrokerCalls, Clients
from melange.drivers.aws.wire import Arn, is_arn, parse_arn
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_topic_name
from melange.errors import AccessDeniedError, ConfigurationError, DriverError, TopicNotFoundError
from melange.messages import Topic

logger = logging.getLogger(__name__)

Attributes = dict[str, str]

DEFAULT_MAX_TOPIC_BYTES = 262_144


class Topics:
    """Declares and finds topics. Thread-safe."""

    def __init__(self, calls: BrokerCalls, clients: Clients, kms_master_key_id: str | None) -> None:
        self._calls = calls
        self._clients = clients
        self._kms_master_key_id = kms_master_key_id
        self._account: str | None = None
        self.content_based: dict[str, bool] = {}
        """By address: whether the topic derives deduplication ids itself, as far as this driver knows."""

    def declare(
        self, name: str, *, content_based_deduplication: bool | None, tags: Mapping[str, str] | None
    ) -> Topic:
        """See ``MessagingDriver.declare_topic``."""
        check_topic_name(name)
        is_fifo = name.endswith(FIFO_SUFFIX)
        if content_based_deduplication and not is_fifo:
            raise ConfigurationError(
                f"topic {name!r} is no FIFO topic: content_based_deduplication= is for those"
            )
        wanted: Attributes = {}
        if content_based_deduplication is not None and is_fifo:
            wanted["ContentBasedDeduplication"] = _boolean(content_based_deduplication)
        if self._kms_master_key_id:
            wanted["KmsMasterKeyId"] = self._kms_master_key_id
        address = self._create(name, {"FifoTopic": "true"} if is_fifo else {}, wanted)
        self._account = parse_arn(address, "sns").account
        attributes = self._reconcile(name, address, wanted)
        if tags:
            # Not with CreateTopic: that refuses an existing topic whose tags differ.
            self._calls(
                self._clients.sns.tag_resource,
                "sns:TagResource",
                name,
                ResourceArn=address,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
        return self._topic(address, attributes)

    def get(self, name: str) -> Topic:
        """See ``MessagingDriver.get_topic``."""
        address = str(self._arn(name))
        try:
            attributes = self._attributes(name, address)
        except AccessDeniedError:
            # A role that may only publish is a common one: publishing tells whether the topic exists.
            logger.warning(
                "may not sns:GetTopicAttributes on %s: taken to exist, and to allow %s bytes a message",
                address,
                DEFAULT_MAX_TOPIC_BYTES,
            )
            attributes = {}
        return self._topic(address, attributes)

    def delete(self, topic: Topic) -> None:
        """See ``BrokerAdministration.delete_topic``."""
        try:
            self._calls(self._clients.sns.delete_topic, "sns:DeleteTopic", topic.name, TopicArn=topic.address)
        except TopicNotFoundError:
            return

    def _create(self, name: str, kind: Attributes, wanted: Attributes) -> str:
        create = self._clients.sns.create_topic
        try:
            answer = self._calls(create, "sns:CreateTopic", name, Name=name, Attributes={**kind, **wanted})
        except ConfigurationError as error:
            if "already exists" not in str(error):
                raise
            # With attributes that differ. They are set one by one, as on any existing topic.
            answer = self._calls(create, "sns:CreateTopic", name, Name=name, Attributes=kind)
        return str(answer["TopicArn"])

    def _reconcile(self, name: str, address: str, wanted: Attributes) -> Attributes:
        attributes = self._attributes(name, address)
        for attribute, value in wanted.items():
            if attributes.get(attribute) != value:
                self._calls(
                    self._clients.sns.set_topic_attributes,
                    "sns:SetTopicAttributes",
                    name,
                    TopicArn=address,
                    AttributeName=attribute,
                    AttributeValue=value,
                )
        return {**attributes, **wanted}

    def _attributes(self, name: str, address: str) -> Attributes:
        answer = self._calls(
            self._clients.sns.get_topic_attributes, "sns:GetTopicAttributes", name, TopicArn=address
        )
        attributes: Attributes = answer["Attributes"]
        return attributes

    def _topic(self, address: str, attributes: Attributes) -> Topic:
        name = parse_arn(address, "sns").name
        self.content_based[address] = attributes.get("ContentBasedDeduplication", "true") == "true"
        return Topic(
            name=name,
            address=address,
            is_fifo=name.endswith(FIFO_SUFFIX),
            max_message_bytes=int(attributes.get("MaximumMessageSize", DEFAULT_MAX_TOPIC_BYTES)),
        )

    def _arn(self, name: str) -> Arn:
        """Return the topic's ARN: SNS has no look-up by name, it is put together from region and account."""
        region = self._clients.region_name
        if is_arn(name):
            arn = parse_arn(name, "sns")
            if arn.region != region:
                raise ConfigurationError(
                    f"topic {name} is in another region than this driver's, {region}: pass region_name="
                )
            return arn
        check_topic_name(name)
        account = self._account or self._account_of(name)
        self._account = account
        return Arn(self._clients.partition, "sns", region, account, name)

    def _account_of(self, topic_name: str) -> str:
        try:
            # Every valid credential may ask this, whatever its policies say.
            identity = self._calls(self._clients.sts.get_caller_identity, "sts:GetCallerIdentity", topic_name)
            return str(identity["Account"])
        except (DriverError, ConfigurationError):
            # A network without a way to STS, or a local server without it.
            try:
                return self._find_in_listing(topic_name).account
            except AccessDeniedError as denied:
                raise AccessDeniedError(
                    f"the account of topic {topic_name!r} could not be found out; give it as an ARN. {denied}"
                ) from denied

    def _find_in_listing(self, topic_name: str) -> Arn:
        parameters: dict[str, Any] = {}
        while True:
            answer = self._calls(self._clients.sns.list_topics, "sns:ListTopics", topic_name, **parameters)
            for topic in answer.get("Topics", ()):
                arn = parse_arn(topic["TopicArn"], "sns")
                if arn.name == topic_name:
                    return arn
            if not answer.get("NextToken"):
                raise TopicNotFoundError(topic_name)
            parameters = {"NextToken": answer["NextToken"]}


def _boolean(value: bool) -> str:
    return "true" if value else "false"
