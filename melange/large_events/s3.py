"""Amazon S3 as the store of large events."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from melange.errors import AccessDeniedError, DriverConnectionError
from melange.large_events.stores import PayloadMissingError

_MISSING = frozenset({"404", "NoSuchBucket", "NoSuchKey"})
_DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "KMS.DisabledException"})


class S3Store:
    """Payloads in a bucket of S3, which must exist. Creating the store makes no call.

    ``client`` is a boto3 client for S3, and is shared; otherwise one is made at the first use, of ``session`` and with
    ``endpoint_url``. ``put_options`` are passed on to every ``PutObject``: ``{"ServerSideEncryption": "aws:kms",
    "SSEKMSKeyId": ...}``. Needs ``s3:PutObject`` and ``s3:GetObject``, and ``s3:DeleteObject`` for
    ``delete_after_acknowledge``; without ``s3:ListBucket`` S3 says "access denied" of missing objects.
    """

    def __init__(
        self,
        bucket: str,
        *,
        client: Any = None,
        session: boto3.Session | None = None,
        endpoint_url: str | None = None,
        put_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.bucket = bucket
        self._client = client
        self._session = session
        self._endpoint_url = endpoint_url
        self._put_options = dict(put_options or {})
        self._lock = threading.Lock()

    def put(self, key: str, payload: bytes) -> None:
        with _errors(f"storing a large event in bucket {self.bucket}"):
            self._s3().put_object(Bucket=self.bucket, Key=key, Body=payload, **self._put_options)

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        with _errors(f"reading a large event from bucket {bucket}"):
            answer = self._s3().get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                payload: bytes = body.read(max_bytes + 1)
                return payload

    def delete(self, bucket: str, key: str) -> None:
        with _errors(f"deleting a large event from bucket {bucket}"):
            self._s3().delete_object(Bucket=bucket, Key=key)

    def _s3(self) -> Any:
        with self._lock:
            if self._client is None:
                session = self._session or boto3.Session()
                self._client = session.client("s3", endpoint_url=self._endpoint_url)
            return self._client


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise PayloadMissingError from error
        error_class = AccessDeniedError if code in _DENIED else DriverConnectionError
        raise error_class(f"{what} failed: {code or 'no reason given'}") from error
    except (BotoCoreError, OSError) as error:
        raise DriverConnectionError(f"{what} failed: {type(error).__name__}") from error
