"""An MCP server behind a TCP port: one JSON message per line, in either era, as on stdio."""

import asyncio
import logging
from urllib.parse import urlsplit

from mcp_proto.codec import encode
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject, Outcome
from mcp_proto.framing import Line, LineFramer, to_line
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES
from tool_runner.core.addresses import AddressRule
from tool_runner.core.askers import Askers
from tool_runner.upstreams.guard import RefusedAddressError, keep_alive, resolve
from tool_runner.upstreams.remote import RemoteUpstream
from tool_runner.upstreams.secrets import secret
from tool_runner.upstreams.upstream import Listener

__all__ = ["TcpUpstream"]

CONNECT_S = 5.0
WRITE_ROOM_S = 5.0
"""Longest wait for a server to read before a request to it is refused."""
WRITE_BUFFER_BYTES = 1024 * 1024
"""Written and not yet read by the server; above it a request waits."""
_READ_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


class TcpUpstream(RemoteUpstream):
    """``Upstream`` over TCP lines.

    Args:
        definition: ``url`` is ``tcp://HOST:PORT``; a ``bearer`` is sent as ``authenticate``.
        rule: which addresses may be connected to.
        listener: hears of changed lists.
        start_timeout_s: longest start.
        legacy: the era is known to be legacy.
        askers: see ``RemoteUpstream``.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        rule: AddressRule,
        listener: Listener,
        *,
        start_timeout_s: float = 60.0,
        legacy: bool = False,
        askers: Askers | None = None,
    ) -> None:
        super().__init__(
            definition, listener, start_timeout_s=start_timeout_s, legacy=legacy, askers=askers
        )
        self._rule = rule
        self._writer: asyncio.StreamWriter | None = None

    async def _connect(self) -> None:
        parts = urlsplit(self._definition.url)
        reader, self._writer = await self._dial(parts.hostname or "", parts.port or 0)
        transport = self._writer.transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        keep_alive(transport.get_extra_info("socket"))
        self._tasks.spawn(self._read(reader), name="read")
        if self._definition.bearer:
            await self._authenticate()

    async def _dial(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that takes it.

        Raises:
            MeshError: ``upstream``, not executed.
        """
        try:
            places = await resolve(self._rule, host, port)
        except RefusedAddressError as error:
            raise self._error(f"is out of bounds: {error}", Outcome.NOT_EXECUTED) from None
        except OSError as error:
            raise self._error(f"cannot be found ({error})", Outcome.NOT_EXECUTED) from None
        said = ""
        for family, address in places:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(address, port, family=family)
            except (OSError, TimeoutError) as error:
                said = getattr(error, "strerror", None) or "no connection in time"
        raise self._error(f"cannot be reached ({said})", Outcome.NOT_EXECUTED)

    async def _authenticate(self) -> None:
        token = secret(self._definition.bearer, self._definition.name)
        params = encode({"token": token})
        answer = await self.session.ask("authenticate", params, CONNECT_S)
        if isinstance(answer, ErrorObject):
            raise self._error("refuses the credential it is given", Outcome.NOT_EXECUTED)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        framer = LineFramer(UPSTREAM_MESSAGE_BYTES)
        how = "closed the connection"
        try:
            while data := await reader.read(_READ_BYTES):
                for event in framer.feed(data):
                    if isinstance(event, Line):
                        self.session.receive(event.data)
                    else:
                        self.session.receive_too_long(event)
        except OSError as error:
            how = f"broke the connection ({error.strerror or type(error).__name__})"
        self._end(how)

    async def _write(self, message: bytes, timeout_s: float) -> None:
        writer = self._usable()
        try:
            async with asyncio.timeout(min(timeout_s, WRITE_ROOM_S)):
                await writer.drain()
        except TimeoutError:
            raise self._error("does not read its input", Outcome.NOT_EXECUTED) from None
        except OSError:
            raise self._error("broke the connection", Outcome.NOT_EXECUTED) from None
        writer.write(to_line(message))

    def _write_now(self, message: bytes) -> None:
        writer = self._usable()
        if writer.transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            raise self._error("does not read its input", Outcome.NOT_EXECUTED)
        writer.write(to_line(message))

    def _usable(self) -> asyncio.StreamWriter:
        if self._writer is None or self._writer.is_closing():
            raise self._error("is not connected", Outcome.NOT_EXECUTED)
        return self._writer

    async def _disconnect(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


_CLOSE_S = 2.0
