"""Direct calls to SNS or SQS with the settings of a boto3 client, over connections that it opens and that are kept."""

from __future__ import annotations

import os
import ssl
import weakref
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.awsrequest import HeadersDict
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import create_parser
from urllib3.exceptions import ConnectTimeoutError as Urllib3ConnectTimeoutError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import SSLError as Urllib3SSLError
from urllib3.util.proxy import connection_requires_http_tunnel

from melange.drivers.aws.direct.http import ClosedBeforeAnswer, HttpAnswer, HttpConnection
from melange.drivers.aws.direct.requests import DIRECT_REQUESTS
from melange.drivers.aws.direct.signing import RequestSigner
from melange.drivers.aws.operations import Answer, Parameters, UnreadableAnswer


class DirectClient:
    """Makes the direct calls of one boto3 client. Thread-safe, in one process only; close it."""

    def __init__(self, client: Any, user_agent: str) -> None:
        self._client = client
        self._credentials = client._request_signer._credentials
        url = client.meta.endpoint_url
        url = url if urlsplit(url).path else f"{url}/"
        self._connections = Connections(client, url)
        unsigned = {
            "User-Agent": user_agent,
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


class Connections:
    """Sends requests to one endpoint over kept connections. Thread-safe, in one process only.

    The settings are those of a boto3 client: the connections are opened by its own HTTP session, so verification,
    certificates, proxies, timeouts and socket options are as botocore would have them.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._http_session = client._endpoint.http_session
        self._url = url
        self._proxy_url = self._http_session._proxy_config.proxy_url_for(url)
        self.request_target: str = self._http_session._get_request_target(url, self._proxy_url)
        """What stands in the request line: behind some proxies the whole URL."""
        self._read_timeout = client.meta.config.read_timeout
        self._most_idle = client.meta.config.max_pool_connections
        self._idle: list[HttpConnection] = []
        self._is_closed = False
        weakref.finalize(self, _close_all, self._idle)

    @property
    def proxy_headers(self) -> dict[str, str]:
        """The headers for a proxy that forwards requests; a tunnel needs none."""
        pool = self._pool()
        return {} if pool.proxy is None or _needs_tunnel(pool) else dict(pool.proxy_headers)

    def exchange(self, request: bytes) -> HttpAnswer:
        """Send a request and return the answer.

        The other side may close a kept connection at any time. If it did so without a byte of an answer, the
        request is sent once more, over a new connection. It may have taken effect nevertheless, which does no harm to
        the calls that come here: messages keep their ids, settling is idempotent, FIFO receives have an attempt id,
        and what another receive has taken comes back after its visibility timeout.

        Raises:
            BotoCoreError: no connection, no answer in time, or half an answer.
            UnreadableAnswer: the answer is not HTTP.
        """
        kept = self._take()
        if kept is not None:
            try:
                return self._exchange_over(kept, request)
            except ClosedBeforeAnswer:
                pass
        try:
            return self._exchange_over(self._connect(), request)
        except ClosedBeforeAnswer as error:
            raise ConnectionClosedError(endpoint_url=self._url) from error

    def close(self) -> None:
        """Close the idle connections now, and those in use after their answer."""
        self._is_closed = True
        _close_all(self._idle)

    def _take(self) -> HttpConnection | None:
        """Return a kept connection; None if there is none."""
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                return None
            if kept.is_usable():
                return kept
            kept.close()

    def _exchange_over(self, connection: HttpConnection, request: bytes) -> HttpAnswer:
        keeps = False
        try:
            answer = connection.exchange(request)
            keeps = answer.keeps_connection
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except OSError as error:
            raise ConnectionClosedError(endpoint_url=self._url, error=error) from error
        else:
            return answer
        finally:
            self._release(connection, keeps=keeps)

    def _release(self, connection: HttpConnection, *, keeps: bool) -> None:
        if not keeps or len(self._idle) >= self._most_idle:
            connection.close()
            return
        self._idle.append(connection)
        if self._is_closed:
            _close_all(self._idle)

    def _pool(self) -> Any:
        pool = self._http_session._get_connection_manager(self._url, self._proxy_url).connection_from_url(
            self._url
        )
        self._http_session._setup_ssl_cert(pool, self._url, self._http_session._verify)
        return pool

    def _connect(self) -> HttpConnection:
        try:
            pool = self._pool()
            connection = pool._new_conn()
            if pool.proxy is not None and _needs_tunnel(pool):
                pool._prepare_proxy(connection)
            pool._validate_conn(connection)
            if connection.sock is None:
                connection.connect()
        except (HTTPError, OSError, ValueError) as error:  # urllib3's CertificateError is a ValueError
            raise self._error_for_connecting(error) from error
        return HttpConnection(connection.sock, self._read_timeout)

    def _error_for_connecting(self, error: Exception) -> BotoCoreError:
        if isinstance(error, (Urllib3ConnectTimeoutError, TimeoutError)):
            return ConnectTimeoutError(endpoint_url=self._url, error=error)
        if isinstance(error, (ssl.SSLError, Urllib3SSLError, ValueError)):
            return SSLError(endpoint_url=self._url, error=error)
        return EndpointConnectionError(endpoint_url=self._url, error=error)


def _close_all(connections: list[HttpConnection]) -> None:
    while connections:
        try:
            connections.pop().close()
        except (IndexError, OSError):
            continue


def _needs_tunnel(pool: Any) -> bool:
    return connection_requires_http_tunnel(pool.proxy, pool.proxy_config, pool.scheme)
