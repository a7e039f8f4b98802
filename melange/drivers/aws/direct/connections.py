"""Connections that botocore opens and that are kept for the next request."""

from __future__ import annotations

import ssl
import weakref
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import ConnectTimeoutError as Urllib3ConnectTimeoutError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import SSLError as Urllib3SSLError
from urllib3.util.proxy import connection_requires_http_tunnel

from melange.drivers.aws.direct.connection import Connection
from melange.drivers.aws.direct.http import ClosedBeforeAnswer, HttpAnswer


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
        self._idle: list[Connection] = []
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

    def _take(self) -> Connection | None:
        """Return a kept connection; None if there is none."""
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                return None
            if kept.is_usable():
                return kept
            kept.close()

    def _exchange_over(self, connection: Connection, request: bytes) -> HttpAnswer:
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

    def _release(self, connection: Connection, *, keeps: bool) -> None:
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

    def _connect(self) -> Connection:
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
        return Connection(connection.sock, self._read_timeout)

    def _error_for_connecting(self, error: Exception) -> BotoCoreError:
        if isinstance(error, (Urllib3ConnectTimeoutError, TimeoutError)):
            return ConnectTimeoutError(endpoint_url=self._url, error=error)
        if isinstance(error, (ssl.SSLError, Urllib3SSLError, ValueError)):
            return SSLError(endpoint_url=self._url, error=error)
        return EndpointConnectionError(endpoint_url=self._url, error=error)


def _close_all(connections: list[Connection]) -> None:
    while connections:
        try:
            connections.pop().close()
        except (IndexError, OSError):
            continue


def _needs_tunnel(pool: Any) -> bool:
    return connection_requires_http_tunnel(pool.proxy, pool.proxy_config, pool.scheme)
