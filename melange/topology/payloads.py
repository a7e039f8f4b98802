"""The bucket of large events in the exports: it is made with a lifecycle rule that deletes old payloads."""

from __future__ import annotations

from typing import Any

from melange.topology.model import DeclaredPayloads
from melange.topology.names import identifier, logical_id

_RULE = "delete-old-payloads"
_DAYS_OF_UPLOADS = 1


def terraform_bucket(payloads: DeclaredPayloads) -> dict[str, dict[str, Any]]:
    """Return the resources of the bucket by their kind."""
    name = identifier(payloads.bucket)
    rule = {
        "id": _RULE,
        "status": "Enabled",
        "filter": {"prefix": payloads.prefix},
        "expiration": {"days": payloads.days},
        "abort_incomplete_multipart_upload": {"days_after_initiation": _DAYS_OF_UPLOADS},
    }
    return {
        "aws_s3_bucket": {"bucket": payloads.bucket},
        "aws_s3_bucket_lifecycle_configuration": {
            "bucket": f"${{aws_s3_bucket.{name}.id}}",
            "rule": [rule],
        },
    }


def cloudformation_bucket(payloads: DeclaredPayloads) -> tuple[str, dict[str, Any]]:
    """Return the logical id of the bucket and its resource."""
    rule = {
        "Id": _RULE,
        "Status": "Enabled",
        "Prefix": payloads.prefix,
        "ExpirationInDays": payloads.days,
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _DAYS_OF_UPLOADS},
    }
    return logical_id("Payloads", payloads.bucket), {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {"BucketName": payloads.bucket, "LifecycleConfiguration": {"Rules": [rule]}},
    }
