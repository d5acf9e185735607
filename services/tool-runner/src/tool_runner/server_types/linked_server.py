"""A server whose tools ask something behind HTTP: an engine, an API, a database of metrics.

It has no connection whose end would end it, so it is asked now and then whether it is there; a
life ends when it is not, and the next one begins by the rules of every server.
"""

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError
from mesh_chassis.tasks import Tasks
from tool_runner.server_types.tool_server import ToolServer
from tool_runner.server_types.typed_tools import Refused
from tool_runner.upstreams.factory import NetworkSettings, make_link
from tool_runner.upstreams.http_answers import Refusal
from tool_runner.upstreams.http_failures import refused
from tool_runner.upstreams.http_link import HttpLink, read_body

__all__ = ["ANSWER_BYTES_MAX", "Answer", "LinkedServer", "Pairs", "path_of"]

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Largest answer that is read; a tool's result is a small part of it."""
CHECK_WITHIN_S = 10.0
"""How long what is behind a server may take to say that it is there."""

_SAID_MAX = 300

Pairs = Sequence[tuple[str, str]]
"""Query or form."""


class Answer(msgspec.Struct, frozen=True):
    """Status and whole body of an HTTP answer."""

    status: int
    body: bytes


def path_of(*segments: str) -> str:
    """A path of these segments; nothing in one can leave its place.

    Raises:
        Refused: a segment that some server would read as a step elsewhere.
    """
    if any(segment in {"", ".", ".."} for segment in segments):
        raise Refused("A name must not be empty, '.' or '..'.")
    return "".join("/" + quote(segment, safe="") for segment in segments)


class LinkedServer(ToolServer):
    """``ToolServer`` over an ``HttpLink``; a type adds ``_probe`` and ``_list``.

    Args:
        definition: passed ``server_types.server_problem``.
        network: how servers over the network are reached.
        trusted: the definition is the operator's own.
    """

    def __init__(
        self, definition: ServerDefinition, network: NetworkSettings, trusted: bool
    ) -> None:
        super().__init__(definition)
        self._network = network
        self._trusted = trusted
        self._check_s = network.http.check_s
        self._link: HttpLink | None = None
        self._base = definition.url.rstrip("/")
        self._checks = Tasks(f"server {definition.name}", tasks_max=1)

    async def _open(self) -> None:
        link = self._link = self._make_link()
        link.open()
        try:
            await self._probe()
        except Refused as error:
            raise self._error(f"cannot be used: {error}") from None
        self._checks.spawn(self._check(), name="check")

    async def _close(self) -> None:
        await self._checks.close()
        if self._link is not None:
            await self._link.close()

    @abstractmethod
    async def _probe(self) -> None:
        """Ask whether it is there and is what it should be.

        Raises:
            MeshError: ``upstream``: it is not; the reason as public text.
        """

    def _make_link(self) -> HttpLink:
        """The link, not yet opened.

        Raises:
            MeshError: ``upstream``, not executed: something that it needs is missing.
        """
        return self._make(self._definition)

    def _make(
        self,
        definition: ServerDefinition,
        *,
        tls: ssl.SSLContext | None = None,
        socket_path: str = "",
    ) -> HttpLink:
        return make_link(
            definition, self._network, trusted=self._trusted, tls=tls, socket_path=socket_path
        )

    async def _ask(
        self,
        method: str,
        path: str,
        query: Pairs = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask once; any status is an answer.

        Args:
            method: of HTTP.
            path: below the definition's URL, of ``path_of`` or constant.
            query: name and value, not yet quoted.
            body: bytes sent.
            headers: beside those of the definition.

        Raises:
            MeshError: ``upstream``, with the outcome.
            Refused: the answer is over ``ANSWER_BYTES_MAX``.
        """
        async with self._stream(method, path, query, body=body, headers=headers) as response:
            read = await read_body(response, ANSWER_BYTES_MAX)
        if read is None:
            raise Refused(
                f"The answer has more than {ANSWER_BYTES_MAX} bytes. Ask for less: a narrower "
                "selector, a smaller limit or a shorter range."
            )
        return Answer(response.status, read)

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        query: Pairs = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Ask, and read the body within the block. Arguments and errors as ``_ask``."""
        link = self._link
        if link is None:
            raise self._error("is not connected")
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        url = URL(f"{self._base}{path}{asked}", encoded=True)
        given = {"Accept": "application/json", **(headers or {})}
        response = await link.send(method, given, body, url=url)
        try:
            yield response
        except (aiohttp.ClientError, ConnectionError) as error:
            response.close()
            raise link.failure(error) from error
        except BaseException:
            response.close()
            raise
        else:
            link.finish(response)

    def _status(self, status: int, said: str = "") -> MeshError:
        """What a status means that the type does not know better; ``said``: why, for people."""
        clean = "".join(one if one.isprintable() else " " for one in said).strip()[:_SAID_MAX]
        return refused(self._definition.name, Refusal(status, None, clean))

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self._check_s)
            try:
                async with asyncio.timeout(CHECK_WITHIN_S):
                    await self._probe()
            except TimeoutError:
                self._end(f"did not answer within {CHECK_WITHIN_S:.3g} s")
                return
            except MeshError as error:
                self._end(error.message.removeprefix(f"server {self._definition.name} "))
                return
            except Refused as error:
                self._end(str(error))
                return
