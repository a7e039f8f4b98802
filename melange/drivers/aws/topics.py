"""Topics: created, reconciled with the caller's options, found by name or ARN."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from melange.drivers.aws.addresses import Arn, arn_in_region, is_arn, parse_arn
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.errors import NOT_THERE
from melange.drivers.aws.operations import (
    CREATE_TOPIC,
    DELETE_TOPIC,
    GET_CALLER_IDENTITY,
    GET_TOPIC_ATTRIBUTES,
    LIST_TOPICS,
    SET_TOPIC_ATTRIBUTES,
    TAG_TOPIC,
    Attributes,
)
from melange.drivers.queue_spec import NamePrefix
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_topic_name
from melange.errors import AccessDeniedError, ConfigurationError, DriverError, TopicNotFoundError
from melange.messages import Topic

logger = logging.getLogger(__name__)

DEFAULT_MAX_TOPIC_BYTES = 262_144


class SnsTopics:
    """Declares and finds topics. Thread-safe."""

    def __init__(
        self,
        calls: BrokerCalls,
        kms_master_key_id: str | None,
        prefix: NamePrefix,
    ) -> None:
        self._calls = calls
        self._prefix = prefix
        self._kms_master_key_id = kms_master_key_id
        self._account: str | None = None

    def declare(self, name: str, tags: Mapping[str, str] | None) -> Topic:
        """See ``MessagingDriver.declare_topic``."""
        check_topic_name(name)
        name = self._prefix.add(name)
        check_topic_name(name)
        kind = {"FifoTopic": "true"} if name.endswith(FIFO_SUFFIX) else {}
        wanted = {"KmsMasterKeyId": self._kms_master_key_id} if self._kms_master_key_id else {}
        address = self._create(name, kind, wanted)
        self._account = parse_arn(address, "sns").account
        attributes = self._reconcile(name, address, wanted)
        if tags:
            # Not with CreateTopic: that refuses an existing topic with other tags.
            listed = [{"Key": key, "Value": value} for key, value in tags.items()]
            self._calls(TAG_TOPIC, name, ResourceArn=address, Tags=listed)
        return self._topic(address, attributes)

    def get(self, name: str) -> Topic:
        """See ``MessagingDriver.get_topic``."""
        address = self.address_of(name)
        try:
            attributes = self._attributes(name, address)
        except AccessDeniedError:
            # Many roles may only publish: publishing then shows if the topic exists.
            logger.warning(
                "no permission for sns:GetTopicAttributes on %s: assuming that it exists and allows %s bytes a message",
                address,
                DEFAULT_MAX_TOPIC_BYTES,
            )
            attributes = {}
        return self._topic(address, attributes)

    def address_of(self, name: str) -> str:
        """Return the ARN that a topic of this name has, if it exists."""
        return str(self._arn(name))

    def delete(self, topic: Topic) -> None:
        """See ``BrokerAdministration.delete_topic``."""
        try:
            self._calls(DELETE_TOPIC, topic.name, TopicArn=topic.address)
        except TopicNotFoundError:
            return

    def _create(self, name: str, kind: Attributes, wanted: Attributes) -> str:
        try:
            return str(self._calls(CREATE_TOPIC, name, Name=name, Attributes={**kind, **wanted}))
        except ConfigurationError as refused:
            if not wanted or not self._is_there(name, refused):
                raise
        # Its attributes differ. They are set one by one, as on any existing topic.
        return str(self._calls(CREATE_TOPIC, name, Name=name, Attributes=kind))

    def _is_there(self, name: str, refused: ConfigurationError) -> bool:
        if "already exists" in str(refused):  # the short way, as long as AWS uses this text
            return True
        try:
            self._attributes(name, str(self._arn(name)))
        except (DriverError, ConfigurationError):
            return False
        return True

    def _reconcile(self, name: str, address: str, wanted: Attributes) -> Attributes:
        attributes = self._attributes(name, address)
        for attribute, value in wanted.items():
            if attributes.get(attribute) != value:
                self._calls(
                    SET_TOPIC_ATTRIBUTES,
                    name,
                    TopicArn=address,
                    AttributeName=attribute,
                    AttributeValue=value,
                )
        return {**attributes, **wanted}

    def _attributes(self, name: str, address: str) -> Attributes:
        attributes: Attributes = self._calls(GET_TOPIC_ATTRIBUTES, name, TopicArn=address)
        return attributes

    def _arn(self, name: str) -> Arn:
        """Return the topic's ARN. SNS has no look-up by name, so it is made from region and account."""
        clients = self._calls.clients
        if is_arn(name):
            return arn_in_region(name, "sns", clients.region_name)
        name = self._prefix.add(name)
        check_topic_name(name)
        self._account = self._account or self._account_of(name)
        return Arn(clients.partition, "sns", clients.region_name, self._account, name)

    def _account_of(self, topic_name: str) -> str:
        try:
            # Every valid credential may call this, with any policy.
            return str(self._calls(GET_CALLER_IDENTITY, topic_name))
        except (DriverError, ConfigurationError):
            # A network without access to STS, or a local server without STS.
            try:
                return self._find_in_listing(topic_name).account
            except AccessDeniedError as denied:
                raise AccessDeniedError(
                    f"the account of topic {topic_name!r} could not be found out; give it as an ARN. {denied}"
                ) from denied

    def _find_in_listing(self, topic_name: str) -> Arn:
        for listed in self._calls.listed(LIST_TOPICS, topic_name, "Topics"):
            arn = listed.get("TopicArn", "")
            if arn.rpartition(":")[2] == topic_name:
                return parse_arn(arn, "sns")
        raise TopicNotFoundError(topic_name, NOT_THERE)

    def _topic(self, address: str, attributes: Attributes) -> Topic:
        name = parse_arn(address, "sns").name
        return Topic(
            name=self._prefix.strip(name),
            address=address,
            is_fifo=name.endswith(FIFO_SUFFIX),
            max_message_bytes=int(attributes.get("MaximumMessageSize", DEFAULT_MAX_TOPIC_BYTES)),
        )
