"""Direct calls to SNS or SQS with the settings of a boto3 client."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.parsers import create_parser

from melange.drivers.aws.direct.connections import Connections
from melange.drivers.aws.direct.hooks import user_agent_of
from melange.drivers.aws.direct.http import HttpAnswer
from melange.drivers.aws.direct.requests import DIRECT_REQUESTS
from melange.drivers.aws.direct.signing import RequestSigner
from melange.drivers.aws.operations import Answer, Parameters, UnreadableAnswer


class DirectClient:
    """Makes the direct calls of one boto3 client. Thread-safe, in one process only; close it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._credentials = client._request_signer._credentials
        url = client.meta.endpoint_url
        url = url if urlsplit(url).path else f"{url}/"
        self._connections = Connections(client, url)
        unsigned = {
            "User-Agent": user_agent_of(client),
            "Accept-Encoding": "identity",
            **self._connections.proxy_headers,
        }
        model = client.meta.service_model
        self._signers = {
            method: RequestSigner(
                url,
                target=self._connections.request_target,
                service=model.signing_name,
                region=client.meta.region_name,
                headers=request.headers,
                unsigned=unsigned,
            )
            for method, request in DIRECT_REQUESTS.items()
        }
        self._is_on_lambda = "AWS_LAMBDA_FUNCTION_NAME" in os.environ

    def call(self, method: str, parameters: Parameters) -> Answer:
        """Return the answer to a call, as the boto3 client's ``method`` does.

        Raises:
            ClientError: SNS or SQS answered with an error.
            BotoCoreError: no credentials, no connection or no answer.
            UnreadableAnswer: the answer is not one of this call.
        """
        if self._credentials is None:
            raise NoCredentialsError
        request = DIRECT_REQUESTS[method]
        body = request.write(parameters)
        head = self._signers[method].head(body, self._credentials.get_frozen_credentials())
        if self._is_on_lambda:
            head = _with_trace(head)
        answer = self._connections.exchange(head + body)
        if answer.status == 200:
            return request.read(answer.body)
        raise self._error(request.operation, answer)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _error(self, operation: str, answer: HttpAnswer) -> Exception:
        """Return the error that botocore would raise, read by its own parser."""
        model = self._client.meta.service_model
        parser = create_parser("json" if model.service_name == "sqs" else "query")
        response = {
            "status_code": answer.status,
            "headers": HeadersDict(answer.headers),
            "body": answer.body,
            "context": {"operation_name": operation},
        }
        if answer.status < 300:
            return UnreadableAnswer(f"its status is {answer.status}")
        parsed = parser.parse(response, model.operation_model(operation).output_shape)
        details = parsed.get("Error", {})
        code = details.get("QueryErrorCode") or details.get("Code")
        error: ClientError = self._client.exceptions.from_code(code)(parsed, operation)
        return error


def _with_trace(head: bytes) -> bytes:
    """Add the trace id that Lambda recognizes loops of functions by."""
    trace = os.environ.get("_X_AMZN_TRACE_ID")
    if not trace:
        return head
    value = quote(trace, safe="-=;:+&[]{}\"',")
    return head[:-2] + f"X-Amzn-Trace-Id: {value}\r\n\r\n".encode()
