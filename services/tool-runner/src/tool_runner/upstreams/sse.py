"""An MCP server of revision 2024-11-05 over HTTP: one event stream down, POSTs up."""

import asyncio
import logging

import aiohttp
from yarl import URL

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.eventstream import Event, EventStream
from mesh_chassis.tasks import TasksFullError
from tool_runner.core.askers import Askers
from tool_runner.upstreams.http_answers import read_refusal
from tool_runner.upstreams.http_failures import refused
from tool_runner.upstreams.http_link import HttpLink
from tool_runner.upstreams.remote import RemoteUpstream
from tool_runner.upstreams.upstream import Listener

__all__ = ["SseUpstream"]

_log = logging.getLogger(__name__)

POST_S = 10.0
"""Longest wait for the receipt of a message; the answer itself comes on the stream."""
_ENDPOINT_CHARS_MAX = 2048


class SseUpstream(RemoteUpstream):
    """``Upstream`` over HTTP+SSE.

    Args:
        definition: ``url`` is that of the event stream.
        link: connections; closed with this object.
        listener: hears of changed lists.
        start_timeout_s: longest start.
        askers: see ``RemoteUpstream``.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        link: HttpLink,
        listener: Listener,
        *,
        start_timeout_s: float = 60.0,
        askers: Askers | None = None,
    ) -> None:
        # There is no such thing as a modern server on this transport.
        super().__init__(
            definition, listener, start_timeout_s=start_timeout_s, legacy=True, askers=askers
        )
        self._link = link
        self._response: aiohttp.ClientResponse | None = None
        self._endpoint: asyncio.Future[URL] = asyncio.get_running_loop().create_future()

    async def _connect(self) -> None:
        self._link.open()
        response = await self._link.send("GET", {"Accept": "text/event-stream"})
        if response.status >= 300 or response.content_type.lower() != "text/event-stream":
            try:
                if response.status >= 300:
                    raise refused(self._definition.name, await read_refusal(response))
                raise self._error("offers no event stream at its url", Outcome.NOT_EXECUTED)
            finally:
                response.close()
        self._response = response
        self._tasks.spawn(self._read(response), name="read")
        await asyncio.wait((self._endpoint, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if not self._endpoint.done():
            raise self._error(self._ended.result(), Outcome.NOT_EXECUTED)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        stream = EventStream()
        how = "closed its event stream"
        try:
            async for chunk in response.content.iter_any():
                for event in stream.feed(chunk):
                    self._take(event)
        except MeshError as error:
            how = f"sent too much: {error.message}"
        except (aiohttp.ClientError, OSError) as error:
            how = f"broke off its event stream ({type(error).__name__})"
        finally:
            response.close()
            self._end(how)

    def _take(self, event: Event) -> None:
        match event.kind:
            case "endpoint":
                self._take_endpoint(event.data)
            case "" | "message" if event.data:
                self.session.receive(event.data)
            case _:
                _log.debug("ignored event %r", event.kind, extra={"server": self._definition.name})

    def _take_endpoint(self, data: bytes) -> None:
        """Where to POST; a stream that sends us to another origin would get our credential."""
        if self._endpoint.done():
            return
        try:
            said = data.decode("ascii").strip()
            endpoint = self._link.url.join(URL(said))
        except ValueError:
            self._end("names a malformed endpoint")
            return
        if len(said) > _ENDPOINT_CHARS_MAX or endpoint.origin() != self._link.url.origin():
            self._end("names an endpoint of another origin")
            return
        self._endpoint.set_result(endpoint)

    async def _write(self, message: bytes, timeout_s: float) -> None:
        if not self._endpoint.done():
            raise self._error("is not connected", Outcome.NOT_EXECUTED)
        try:
            async with asyncio.timeout(min(timeout_s, POST_S)):
                response = await self._link.send(
                    "POST", _HEADERS, message, url=self._endpoint.result()
                )
                try:
                    if response.status >= 300:
                        raise refused(self._definition.name, await read_refusal(response))
                finally:
                    response.close()
        except TimeoutError:
            raise MeshError(
                ErrorKind.DEADLINE,
                f"server {self._definition.name} did not take the request in time",
                data={"upstream": self._definition.name},
            ) from None

    def _write_now(self, message: bytes) -> None:
        try:
            self._tasks.spawn(self._write_quietly(message), name="tell")
        except TasksFullError:
            raise self._error("has too many messages on their way", Outcome.NOT_EXECUTED) from None

    async def _write_quietly(self, message: bytes) -> None:
        try:
            await self._write(message, POST_S)
        except MeshError as error:
            _log.info("not sent: %s", error.message, extra={"server": self._definition.name})

    async def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
        await self._link.close()


_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
