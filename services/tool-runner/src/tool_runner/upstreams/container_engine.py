"""The Docker engine that runs servers from images: requests to it, and a container's pipes.

Requests go over an ``HttpLink``; attaching takes a connection of its own, which after the head of
the answer is no HTTP any more ("hijacked", Engine API, "Attach to a container").
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from tool_runner.core.addresses import address_rule
from tool_runner.upstreams.engine import absent, engine_path, message_of, version_of
from tool_runner.upstreams.http_failures import failed
from tool_runner.upstreams.http_link import HttpLink, LinkSettings, read_body

__all__ = ["ContainerEngine", "EngineAnswer"]

ANSWER_BYTES_MAX = 4 * 1024 * 1024
PULL_LINES_BYTES_MAX = 16 * 1024 * 1024
"""What an engine says while it pulls: a line per layer and step."""
CONNECT_S = 5.0
_UNIX = "unix://"
_JSON = {"Content-Type": "application/json"}

P = TypeVar("P", bound=asyncio.BaseProtocol)


class EngineAnswer(msgspec.Struct, frozen=True):
    """Status and body."""

    status: int
    body: bytes

    @property
    def said(self) -> str:
        """What the engine says of a refusal."""
        return message_of(self.body)


class ContainerEngine:
    """One engine, for one life of one server (or one sweep). ``open`` once, ``close`` once.

    Args:
        address: ``unix:///path`` or ``tcp://host:port``.
        server: named in errors.
    """

    def __init__(self, address: str, server: str) -> None:
        self._server = server
        self._socket = address.removeprefix(_UNIX) if address.startswith(_UNIX) else ""
        url = "http://engine" if self._socket else address.replace("tcp://", "http://", 1)
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 2375
        self._base = f"http://{self._host}:{self._port}"
        rule = address_rule(
            [(self._host, self._port)], trusted=True, allowed=[self._host] if self._host else []
        )
        definition = ServerDefinition(name=server, url=self._base)
        self._link = HttpLink(
            definition, rule, LinkSettings(connect_s=CONNECT_S), socket_path=self._socket
        )
        self._api = ""

    async def open(self) -> None:
        """Find the engine, and the version to talk in.

        Raises:
            MeshError: ``upstream``, not executed: there is none; says what is missing.
        """
        self._link.open()
        try:
            answer = await self._read("GET", "/version", ())
        except MeshError as error:
            raise absent(self._server, self._socket or self._base, error) from None
        self._api = version_of(self._server, answer.body)

    async def close(self) -> None:
        """Close all connections but attached ones."""
        await self._link.close()

    async def ask(
        self,
        method: str,
        *segments: str,
        query: Sequence[tuple[str, str]] = (),
        body: object | None = None,
    ) -> EngineAnswer:
        """Ask once; any status is an answer.

        Raises:
            MeshError: ``upstream``, with the outcome.
        """
        sent = None if body is None else msgspec.json.encode(body)
        return await self._read(method, engine_path(self._api, *segments), query, sent)

    @asynccontextmanager
    async def stream(
        self, method: str, *segments: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Ask, and read the answer as it comes."""
        path = engine_path(self._api, *segments)
        async with self._response(method, path, query, None) as response:
            yield response

    async def pull(self, image: str) -> None:
        """Have the engine fetch an image, to the end.

        Raises:
            MeshError: ``upstream``, not executed: it could not, and why.
        """
        name, tag = _name_and_tag(image)
        query = [("fromImage", name), *([("tag", tag)] if tag else [])]
        last = b""
        async with self.stream("POST", "images", "create", query=query) as response:
            body = await read_body(response, PULL_LINES_BYTES_MAX)
            if body is None:
                raise self._error(f"cannot pull {image}: the engine talks without end")
            status, lines = response.status, body.splitlines()
            last = lines[-1] if lines else b""
        said = _pull_error(last) if status == 200 else message_of(last)
        if said:
            raise self._error(f"cannot pull {image}: {said}")

    async def attach(self, container: str, protocol: Callable[[], P]) -> P:
        """A connection to the pipes of a container; the protocol sees the answer's head first.

        Raises:
            MeshError: ``upstream``, not executed.
        """
        loop = asyncio.get_running_loop()
        query = urlencode([(one, "1") for one in ("stream", "stdin", "stdout", "stderr")])
        path = engine_path(self._api, "containers", container, "attach")
        try:
            async with asyncio.timeout(CONNECT_S):
                if self._socket:
                    transport, made = await loop.create_unix_connection(protocol, self._socket)
                else:
                    transport, made = await loop.create_connection(protocol, self._host, self._port)
        except (OSError, TimeoutError) as error:
            said = getattr(error, "strerror", None) or "no connection in time"
            raise self._error(f"cannot reach its Docker engine ({said})") from None
        head = f"POST {path}?{query} HTTP/1.1\r\nHost: {self._host}\r\n{_HIJACK}\r\n"
        transport.write(head.encode())
        return made

    async def _read(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: bytes | None = None,
    ) -> EngineAnswer:
        async with self._response(method, path, query, body) as response:
            read = await read_body(response, ANSWER_BYTES_MAX)
        if read is None:
            raise self._error("gets an endless answer from its Docker engine")
        return EngineAnswer(response.status, read)

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        url = URL(f"{self._base}{path}{asked}", encoded=True)
        response = await self._link.send(method, _JSON if body else {}, body, url=url)
        try:
            yield response
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._link.failure(error) from error
        finally:
            # Streams end with their container: nothing is gained by keeping such a connection.
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    def _error(self, what: str) -> MeshError:
        return failed(self._server, what, Outcome.NOT_EXECUTED)


_HIJACK = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n"


class _PullLine(msgspec.Struct, frozen=True):
    error: str = ""


def _pull_error(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_PullLine).error[:300] if line else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "the engine's answer cannot be read"


def _name_and_tag(image: str) -> tuple[str, str]:
    """An engine that is given no tag would fetch every one."""
    if "@" in image:
        return image, ""
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")
