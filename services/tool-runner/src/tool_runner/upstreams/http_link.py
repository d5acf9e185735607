"""HTTP to one server: its pool of warm connections, its credentials, the guard on addresses.

One link belongs to one definition, so its connections are shared by exactly the callers who share
tenant and credential. It knows nothing of MCP.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_definitions import is_secret_reference
from mesh_chassis.tasks import Tasks, TasksFullError
from tool_runner.core.addresses import AddressRule
from tool_runner.upstreams.guard import (
    GuardedResolver,
    RefusedAddressError,
    check_literal,
    keep_alive,
)
from tool_runner.upstreams.secrets import secret

__all__ = ["Credential", "Denied", "HttpLink", "LinkSettings", "read_body"]

REDIRECTS_MAX = 3
_CONNECTIONS_BESIDE_CALLS = 8
"""For listening, cancelling, answering and tokens, while every call slot is taken."""
_DNS_TTL_S = 10
_READ_BUFFER_BYTES = 64 * 1024

_ENDING_MAX = 256
_END_S = 1.0
_END_BYTES = 64 * 1024
"""How long, and over how many bytes, the end of a response may take to keep its connection."""

_RENEWALS_MAX = {401: 1, 403: 2}
"""Times that one request is repeated with another credential: 403 asks for more scopes."""


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the server refused.

    Attributes:
        status: 401 or 403.
        authorization: what it was sent with; "" = nothing.
        challenges: fields ``WWW-Authenticate``.
    """

    status: int
    authorization: str
    challenges: tuple[str, ...] = ()


Credential = Callable[[Denied | None], Awaitable[str]]
"""Gives the value of ``Authorization``; "" = none. ``Denied``: another one, or "" = no better."""


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How connections are made.

    Attributes:
        connections: open at once to one server.
        connect_s: longest connect, TLS included.
        keepalive_s: how long an idle connection is used again; below the 5 s after which Node and
            uvicorn close one, or calls would be lost on connections that end at that moment.
        proxy: HTTP proxy that all requests go through; "" = none. It then resolves the names.
    """

    connections: int = 100
    connect_s: float = 5.0
    keepalive_s: float = 4.0
    proxy: str = ""


async def _no_credential(_denied: Denied | None) -> str:
    return ""


class HttpLink:
    """Connections to one server. ``open`` once, ``close`` once.

    Args:
        definition: url, headers and the rest.
        rule: which addresses may be connected to.
        settings: bounds.
        tls: instead of the system's authorities and the definition's ``tls_ca_file``.
        socket_path: Unix socket that every request goes to, whatever the URL says; "" = none.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        rule: AddressRule,
        settings: LinkSettings,
        *,
        tls: ssl.SSLContext | None = None,
        socket_path: str = "",
    ) -> None:
        self._definition = definition
        self._rule = rule
        self._settings = settings
        self._given_tls = tls
        self._socket_path = socket_path
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}
        self._unfinished: set[aiohttp.ClientResponse] = set()
        self._ending = Tasks(f"http {definition.name}", tasks_max=_ENDING_MAX)
        self.url = URL(definition.url)
        self.credential: Credential = _no_credential
        self.secretive = False  # True: callers pass credentials in headers of their own

    def open(self) -> None:
        """Read secrets and certificates; nothing is connected yet.

        Raises:
            MeshError: ``upstream``, not executed: a secret or certificate is missing.
        """
        definition = self._definition
        self._headers = {
            name: secret(value, definition.name) if is_secret_reference(value) else value
            for name, value in definition.headers.items()
        }
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            headers={"User-Agent": "mcp-mesh", "Accept-Encoding": "identity"},
        )

    def _connector(self) -> aiohttp.BaseConnector:
        limit = min(
            2 * self._definition.concurrency + _CONNECTIONS_BESIDE_CALLS,
            self._settings.connections,
        )
        keepalive_s = self._settings.keepalive_s
        if self._socket_path:
            return aiohttp.UnixConnector(
                self._socket_path, limit=limit, keepalive_timeout=keepalive_s
            )
        return aiohttp.TCPConnector(
            resolver=GuardedResolver(self._rule),
            ssl=self._tls(),
            limit=limit,
            ttl_dns_cache=_DNS_TTL_S,
            keepalive_timeout=keepalive_s,
            socket_factory=_socket,
        )

    async def send(
        self,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        url: URL | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request to the server; one that is refused is repeated with a better credential.

        Args:
            method: HTTP method.
            headers: of MCP; those of the definition and the credential are added.
            body: bytes sent.
            url: another place of the same origin; None = the definition's.

        Returns:
            The response, its body unread; the caller closes it.

        Raises:
            MeshError: ``upstream``; not executed when no connection came to be.
        """
        authorization = await self.credential(None)
        response = await self._follow(method, url or self.url, headers, body, authorization)
        if response.status not in _RENEWALS_MAX:
            return response
        left = dict(_RENEWALS_MAX)
        while left.get(response.status, 0):
            left[response.status] -= 1
            renewed = await self._renewed(response, authorization)
            if not renewed:
                break
            response.close()
            authorization = renewed
            response = await self._follow(method, url or self.url, headers, body, authorization)
        return response

    async def _renewed(self, response: aiohttp.ClientResponse, authorization: str) -> str:
        denied = Denied(
            status=response.status,
            authorization=authorization,
            challenges=tuple(response.headers.getall("WWW-Authenticate", ())),
        )
        try:
            return await self.credential(denied)
        except BaseException:
            response.close()
            raise

    async def send_bare(
        self, url: URL, headers: Mapping[str, str], body: bytes | None, *, method: str = "POST"
    ) -> aiohttp.ClientResponse:
        """Ask without credential, without the definition's headers, without redirects."""
        return await self._once(method, url, headers, body)

    def finish(self, response: aiohttp.ClientResponse) -> None:
        """Everything wanted of it is read: keep its connection for the next request if possible.

        A stream ends a moment after its last message; nobody waits for that.
        """
        if response.content.at_eof():
            response.release()
            return
        try:
            self._unfinished.add(response)
            self._ending.spawn(self._read_to_end(response), name="finish")
        except TasksFullError:
            self._unfinished.discard(response)
            response.close()

    async def _read_to_end(self, response: aiohttp.ClientResponse) -> None:
        left = _END_BYTES
        try:
            async with asyncio.timeout(_END_S):
                while left > 0 and (chunk := await response.content.readany()):
                    left -= len(chunk)
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # then it is closed like any other that did not end
        finally:
            self._unfinished.discard(response)
            response.close()  # after its end this changes nothing

    async def close(self) -> None:
        """Close every connection."""
        await self._ending.close()
        for response in self._unfinished:  # of tasks that never began
            response.close()
        if self._session is not None:
            await self._session.close()

    async def _follow(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None,
        authorization: str,
    ) -> aiohttp.ClientResponse:
        given = {**self._headers, **headers}
        if authorization:
            given["Authorization"] = authorization
        for _ in range(REDIRECTS_MAX + 1):
            response = await self._once(method, url, given, body)
            if response.status not in {301, 302, 303, 307, 308}:
                return response
            secretive = self.secretive or len(given) > len(headers)
            target = self._target(response, method, url, secretive=secretive)
            response.close()
            url = target
        raise self._error(f"redirects more than {REDIRECTS_MAX} times", Outcome.NOT_EXECUTED)

    def _target(
        self, response: aiohttp.ClientResponse, method: str, url: URL, *, secretive: bool
    ) -> URL:
        """Where a redirect leads, if it may be followed."""
        said = response.headers.get("Location", "")
        keeps = response.status in {307, 308} or method == "GET"
        problem = "" if keeps and said else f"answered a {method} with status {response.status}"
        target = url
        if not problem:
            try:
                target = url.join(URL(said)).with_fragment(None)
            except ValueError:
                problem = "redirects to a malformed address"
            else:
                problem = _redirect_problem(url, target, secretive=secretive)
        if problem:
            response.close()
            # "See other" and its like are what many servers say once they have done the work.
            raise self._error(problem, Outcome.NOT_EXECUTED if keeps else Outcome.UNKNOWN)
        return target

    async def _once(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        session = self._session
        if session is None or session.closed:
            raise self._error("is not connected", Outcome.NOT_EXECUTED)
        try:
            check_literal(self._rule, url.host or "", url.port or 0)
            response = await session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=None if self._socket_path else self._settings.proxy or None,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise self.failure(error) from error
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding != "identity":
            response.close()
            raise self._error("compresses answers though asked not to", Outcome.EXECUTED)
        return response

    def failure(self, error: Exception) -> MeshError:
        """What a failure of the transport means for the request that met it."""
        cause = getattr(error, "os_error", None) or error
        if isinstance(cause, RefusedAddressError):
            return self._error(f"is out of bounds: {cause}", Outcome.NOT_EXECUTED)
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return self._error(
                f"has no certificate that is trusted ({_words(error)})", Outcome.NOT_EXECUTED
            )
        if isinstance(error, _NEVER_CONNECTED):
            return self._error(f"cannot be reached ({_words(error)})", Outcome.NOT_EXECUTED)
        if isinstance(error, asyncio.IncompleteReadError | aiohttp.ClientPayloadError):
            return self._error("broke off its answer", Outcome.UNKNOWN)
        return self._error(f"broke the connection ({_words(error)})", Outcome.UNKNOWN)

    def _tls(self) -> ssl.SSLContext | bool:
        if self._given_tls is not None:
            return self._given_tls
        if not self._definition.tls_ca_file:
            return True
        try:
            return ssl.create_default_context(cafile=str(Path(self._definition.tls_ca_file)))
        except (OSError, ssl.SSLError) as error:
            raise self._error(f"tls_ca_file: {error}", Outcome.NOT_EXECUTED) from None

    def _error(self, what: str, outcome: Outcome) -> MeshError:
        name = self._definition.name
        return MeshError(
            ErrorKind.UPSTREAM, f"server {name} {what}", data={"upstream": name}, outcome=outcome
        )


async def read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes | None:
    """The whole body; None when it is longer than ``bytes_max``, without reading the rest.

    Raises:
        aiohttp.ClientError, OSError: it broke off.
    """
    length = response.content_length
    if length is not None and length > bytes_max:
        return None
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            return None
    return bytes(body)


def _socket(place: tuple[Any, ...]) -> socket.socket:
    """A socket that notices a peer that is gone, however long nothing is said on it."""
    made = socket.socket(family=place[0], type=place[1], proto=place[2])
    made.setblocking(False)
    keep_alive(made)
    return made


def _redirect_problem(url: URL, target: URL, *, secretive: bool) -> str:
    if target.scheme not in {"http", "https"} or not target.host or target.user is not None:
        return "redirects to an address that is not followed"
    if url.scheme == "https" and target.scheme == "http":
        return "redirects from https to http"
    if url.origin() != target.origin() and secretive:
        return f"redirects to another origin ({target.origin()}), which would get the credential"
    return ""


_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


def _words(error: Exception) -> str:
    """Cause in a few words, without addresses."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)[:120]
    if isinstance(error, aiohttp.ConnectionTimeoutError | TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed it"
    return type(error).__name__
