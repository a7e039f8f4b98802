"""What the services take and return, as botocore's own models say."""

from __future__ import annotations

from functools import cache

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, StructureShape

VERSIONS = {"2012-11-05": "sqs", "2010-03-31": "sns", "2011-06-15": "sts"}
"""The service that a version of the Query protocol belongs to."""

NAMESPACES = {
    "sqs": "http://queue.amazonaws.com/doc/2012-11-05/",
    "sns": "http://sns.amazonaws.com/doc/2010-03-31/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}


@cache
def service_model(service: str) -> ServiceModel:
    """Return the model of a service."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@cache
def operation_model(service: str, operation: str) -> OperationModel | None:
    """Return the model of an operation, or None if the service has none of that name."""
    model = service_model(service)
    return model.operation_model(operation) if operation in model.operation_names else None


def input_shape(service: str, operation: str) -> StructureShape | None:
    """Return the shape of what an operation takes."""
    model = operation_model(service, operation)
    return model.input_shape if model else None


_QUERY_NAMES = {
    "AWSAccountIdList": "AWSAccountId",
    "ActionNameList": "ActionName",
    "AttributeNameList": "AttributeName",
    "BinaryList": "BinaryListValue",
    "ListMessageMoveTasksResultEntryList": "ListMessageMoveTasksResultEntry",
    "MessageAttributeNameList": "MessageAttributeName",
    "MessageBodyAttributeMap": "MessageAttribute",
    "MessageBodySystemAttributeMap": "MessageSystemAttribute",
    "MessageList": "Message",
    "MessageSystemAttributeList": "MessageSystemAttributeName",
    "MessageSystemAttributeMap": "Attribute",
    "QueueAttributeMap": "Attribute",
    "QueueUrlList": "QueueUrl",
    "StringList": "StringListValue",
    "TagKeyList": "TagKey",
    "TagMap": "Tag",
}
"""What SQS calls the items of its lists and maps in the Query protocol. botocore's model speaks JSON and has lost it."""


def sqs_query_name(shape_name: str, member_name: str) -> str:
    """Return the name under which SQS's Query protocol lists the items of a shape."""
    if member_name == "AttributeNames" and shape_name == "MessageSystemAttributeList":
        return "AttributeName"
    return _QUERY_NAMES.get(shape_name) or shape_name.removesuffix("List")
