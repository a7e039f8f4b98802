"""The protocols in which clients call SQS, SNS and STS, driven by botocore's models of the three services."""

from __future__ import annotations

from functools import cache

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, StructureShape


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
