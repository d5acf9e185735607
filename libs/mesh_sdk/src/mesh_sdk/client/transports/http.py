"""Over HTTP: every request by itself, its answer as JSON or as an event stream.

A response that is closed before its end is how a request is cancelled in this revision, so a
cancelled wait closes the connection. Headers repeat what routers on the way may need.
"""

import asyncio
import io
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.codec import encode_request
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.eventstream import EventStream
from mcp_proto.header_values import encode_value
from mcp_proto.jsonrpc import ErrorResponse, Notification, Response
from mcp_proto.versions import MODERN
from mesh_sdk.client.errors import MeshCallError, lost, too_late
from mesh_sdk.client.settings import ClientSettings
from mesh_sdk.client.transports.answers import (
    ANSWER_BYTES_MAX,
    check_size,
    read_message,
    result_of,
    tell,
)
from mesh_sdk.client.transports.transport import Hear, Outgoing

__all__ = ["HttpTransport"]

GRACE_S = 1.0
"""Past the time of a request in which the mesh itself may still say that it is over."""
SILENCE_MAX_S = 60.0
"""Silence on a listen after which its peer counts as gone; a mesh writes something every 15 s."""
REFUSAL_BYTES_MAX = 64 * 1024
_END_S = 0.25
_LARGE_BYTES = 512 * 1024
"""A body above is written in pieces, so that the loop serves others between them."""
_BASE = {
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": MODERN.value,
    "User-Agent": "mesh-sdk",
}
_KINDS = {
    401: ErrorKind.UNAUTHENTICATED,
    403: ErrorKind.DENIED,
    404: ErrorKind.NOT_FOUND,
    413: ErrorKind.TOO_LARGE,
    429: ErrorKind.OVERLOADED,
}
"""What a status says when the body says nothing: all of them are given before anything runs."""


class HttpTransport:
    """``Transport`` to ``http(s)://host:port/mcp``.

    Args:
        url: of the endpoint; ``/mcp`` is added where no path is given.
        key: bearer token; "" = none.
        settings: pool and times.
    """

    def __init__(self, url: str, *, key: str, settings: ClientSettings) -> None:
        self._url = _endpoint_url(url)
        self._headers = {**_BASE, "Authorization": f"Bearer {key}"} if key else dict(_BASE)
        self._settings = settings
        self._call_times = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s)
        self._listen_times = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_s, sock_read=SILENCE_MAX_S
        )
        self._slots = asyncio.Semaphore(settings.pool_size)
        self._numbers = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """See ``Transport.open``; nothing is connected before the first request."""
        if self._session is not None:
            return
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots bound what calls take; listens come beside them
            keepalive_timeout=self._settings.keepalive_s,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._call_times,
            trust_env=False,
        )

    async def close(self) -> None:
        """See ``Transport.close``."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, request: Outgoing, hear: Hear | None = None) -> msgspec.Raw:
        """See ``Transport.send``."""
        session = self._session
        if session is None:
            raise lost("the client is closed", Outcome.NOT_EXECUTED)
        message = encode_request(request.method, next(self._numbers), request.params)
        check_size(message)
        sent = False
        try:
            async with asyncio.timeout(None if request.listens else request.timeout_s + GRACE_S):
                async with self._slot(request):
                    sent = True
                    async with session.post(
                        self._at(request.endpoint),
                        data=message if len(message) <= _LARGE_BYTES else io.BytesIO(message),
                        headers=self._headers_of(request),
                        allow_redirects=False,
                        timeout=self._listen_times if request.listens else self._call_times,
                    ) as response:
                        return await _answer(response, hear)
        except aiohttp.ClientError as error:
            # Before TimeoutError: a connect that took too long is both.
            self._failed(error)
        except TimeoutError:
            raise too_late(Outcome.UNKNOWN if sent else Outcome.NOT_EXECUTED) from None
        except OSError as error:
            self._failed(error)

    @asynccontextmanager
    async def _slot(self, request: Outgoing) -> AsyncGenerator[None, None]:
        if request.listens:
            yield
            return
        async with self._slots:
            yield

    def _at(self, endpoint: str) -> URL:
        if not endpoint:
            return self._url
        return self._url.with_path(f"{self._url.path.rstrip('/')}/{endpoint}")

    def _headers_of(self, request: Outgoing) -> Mapping[str, str]:
        headers = {**self._headers, "Mcp-Method": request.method}
        if not request.listens:
            headers["Mesh-Timeout-Ms"] = str(max(1, int(request.timeout_s * 1000)))
        if request.name:
            headers["Mcp-Name"] = encode_value(request.name)
        headers.update(request.headers)
        return headers

    def _failed(self, error: Exception) -> NoReturn:
        """Whether anything was sent decides the outcome: without a connection nothing was."""
        where = str(self._url.origin())
        words = str(error) or type(error).__name__
        never = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        if never:
            raise lost(f"cannot connect to {where}: {words}", Outcome.NOT_EXECUTED) from error
        if isinstance(error, aiohttp.InvalidURL | ValueError):
            raise MeshCallError(ErrorKind.PARAMS, f"not an address: {where}") from error
        raise lost(f"the connection to {where} broke: {words}", Outcome.UNKNOWN) from error


def _endpoint_url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        raise MeshCallError(ErrorKind.PARAMS, f"not an address: {text[:200]}") from None
    if not url.host or url.user or url.password or url.fragment:
        raise MeshCallError(
            ErrorKind.PARAMS, "an address is http(s)://HOST[:PORT][/PATH], without credentials"
        )
    return url if url.path.strip("/") else url.with_path("/mcp")


async def _answer(response: aiohttp.ClientResponse, hear: Hear | None) -> msgspec.Raw:
    if response.status >= 300:
        raise await _refusal(response)
    kind = response.content_type.lower()
    if kind == "text/event-stream":
        return await _from_stream(response, hear)
    if kind != "application/json":
        raise MeshCallError(
            ErrorKind.UPSTREAM, f"the answer is {kind[:64]!r}, not JSON", outcome=Outcome.UNKNOWN
        )
    answer = read_message(await _body(response, ANSWER_BYTES_MAX))
    if isinstance(answer, Response | ErrorResponse):
        return result_of(answer)
    raise MeshCallError(ErrorKind.UPSTREAM, "the answer holds no response", outcome=Outcome.UNKNOWN)


async def _from_stream(response: aiohttp.ClientResponse, hear: Hear | None) -> msgspec.Raw:
    stream = EventStream(ANSWER_BYTES_MAX)
    async for chunk in response.content.iter_any():
        try:
            events = stream.feed(chunk)
        except MeshError as error:
            raise MeshCallError.of(error) from None
        for event in events:
            if not event.data or event.kind not in {"", "message"}:
                continue
            message = read_message(event.data)
            if isinstance(message, Response | ErrorResponse):
                await _end(response)
                return result_of(message)
            if isinstance(message, Notification):
                tell(hear, message)
    raise lost("the stream ended without an answer", Outcome.UNKNOWN)


async def _end(response: aiohttp.ClientResponse) -> None:
    """Read past the end of a stream, which follows its answer, so that the connection is kept."""
    try:
        async with asyncio.timeout(_END_S):
            await response.content.readany()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return  # then this connection is closed


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body.

    Raises:
        MeshCallError: ``too_large``, executed.
    """
    size = 0
    chunks: list[bytes] = []
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            raise MeshCallError(
                ErrorKind.TOO_LARGE, f"the answer exceeds {most} bytes", outcome=Outcome.EXECUTED
            )
        chunks.append(chunk)
    return b"".join(chunks)


async def _refusal(response: aiohttp.ClientResponse) -> MeshCallError:
    """The error of a status that is none of success; its body says more where it is JSON-RPC."""
    status = response.status
    try:
        message = read_message(await _body(response, REFUSAL_BYTES_MAX))
        if isinstance(message, ErrorResponse):
            made = MeshCallError.of_answer(message.error, http_status=status)
            if made.retry_after_s is None:
                made.retry_after_s = _retry_after(response)
            return made
    except MeshCallError:
        pass  # the status alone says enough
    kind = _KINDS.get(status)
    if kind is None:
        kind = ErrorKind.UPSTREAM if status >= 500 else ErrorKind.REQUEST
    return MeshCallError(
        kind,
        f"HTTP {status} {response.reason or ''}".strip(),
        data={"httpStatus": status},
        retry_after_s=_retry_after(response),
        outcome=Outcome.UNKNOWN if status >= 500 else Outcome.NOT_EXECUTED,
    )


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isdigit() and len(said) < 6 else None
