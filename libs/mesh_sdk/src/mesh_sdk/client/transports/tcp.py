"""Over TCP: a small pool of line connections to ``tcp://host:9500``.

A connection that is lost is replaced by the next request; one that is idle is asked for a sign of
life, so that neither the edge's idle limit nor a dead peer is met by a call. Requests for one
server or virtual server go over connections of their own: on this edge the endpoint belongs to the
connection.
"""

import asyncio
import logging
import ssl
from urllib.parse import urlsplit

import msgspec

from mcp_proto.endpoints import META
from mcp_proto.errors import ErrorKind, Outcome
from mesh_chassis.tasks import Tasks
from mesh_sdk.client.errors import MeshCallError, lost, too_late
from mesh_sdk.client.settings import LOGGER, ClientSettings
from mesh_sdk.client.transports.line_link import IN_FLIGHT_MAX, LineLink
from mesh_sdk.client.transports.transport import Hear, Outgoing

__all__ = ["DEFAULT_PORT", "TcpTransport"]

DEFAULT_PORT = 9500
PING_S = 5.0
"""A connection that does not answer a ping for so long is given up."""
_TASKS_MAX = 4
_log = logging.getLogger(LOGGER)


class TcpTransport:
    """``Transport`` over line connections.

    Args:
        url: ``tcp://host[:port]``; ``tcps://`` = with TLS, checked as the system says.
        key: credential for ``authenticate``; "" = none.
        settings: pool and times.
    """

    def __init__(self, url: str, *, key: str, settings: ClientSettings) -> None:
        self._host, self._port, secure = _address(url)
        self._tls = ssl.create_default_context() if secure else None
        self._key = key
        self._settings = settings
        self._links: list[LineLink] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._connecting = 0
        self._open = False
        self._tasks = Tasks("mesh client", tasks_max=_TASKS_MAX)

    async def open(self) -> None:
        """See ``Transport.open``: connects ``pool_min`` times, once at least."""
        if self._open:
            return
        first = await self._connected("")
        self._links.append(first)
        self._open = True
        self._tasks.spawn(self._keep(), name="keepalive")

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._open = False
        self._tell()
        await self._tasks.close()
        links, self._links = self._links, []
        await asyncio.gather(*(link.close() for link in links))

    async def send(self, request: Outgoing, hear: Hear | None = None) -> msgspec.Raw:
        """See ``Transport.send``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + request.timeout_s
        try:
            async with asyncio.timeout(request.timeout_s):
                link = await self._link(request)
        except TimeoutError:
            raise too_late(Outcome.NOT_EXECUTED) from None
        left = max(0.001, until - loop.time())
        try:
            return await link.send(msgspec.structs.replace(request, timeout_s=left), hear)
        finally:
            self._tell()

    async def _link(self, request: Outgoing) -> LineLink:
        """A connection for a request: an idle one, a new one, or the least busy one."""
        while True:
            if not self._open:
                raise lost("the client is closed", Outcome.NOT_EXECUTED)
            self._links = [link for link in self._links if link.alive]
            link = self._usable(request)
            if link is not None and link.in_flight == 0:
                return link
            if len(self._links) + self._connecting < self._settings.pool_size:
                # Another request may take it before this one has it: then look again.
                await self._another(request.endpoint)
            elif link is not None:
                return link
            elif not await self._drop_idle(request.endpoint):
                await self._changed()

    async def _changed(self) -> None:
        """Wait until a request has ended or a connection came or went."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _tell(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _another(self, endpoint: str) -> None:
        """One more connection."""
        self._connecting += 1
        try:
            made = await self._connected(endpoint)
            # Before anything else is awaited: whoever waits here may be cancelled.
            self._links.append(made)
        finally:
            self._connecting -= 1
            self._tell()
        if not self._open:
            await made.close()

    def _usable(self, request: Outgoing) -> LineLink | None:
        usable = [
            link
            for link in self._links
            if link.endpoint == request.endpoint
            and link.in_flight < IN_FLIGHT_MAX
            and not (request.hears_log and link.hears_log)
        ]
        return min(usable, key=lambda link: link.in_flight, default=None)

    async def _drop_idle(self, endpoint: str) -> bool:
        """Make room in a full pool: an idle connection of another endpoint goes."""
        for link in self._links:
            if link.endpoint != endpoint and link.in_flight == 0:
                self._links.remove(link)
                await link.close()
                return True
        return False

    async def _connected(self, endpoint: str) -> LineLink:
        settings = self._settings
        link = await LineLink.connect(
            self._host,
            self._port,
            tls=self._tls,
            endpoint=endpoint,
            connect_s=settings.connect_s,
            keepalive_s=settings.keepalive_s,
        )
        try:
            if self._key:
                await link.ask_plainly("authenticate", {"token": self._key}, settings.connect_s)
            if endpoint:
                await link.ask_plainly("initialize", _initialize(endpoint), settings.connect_s)
            elif not self._key:
                # The edge ends a connection on which nothing is said.
                await link.ask_plainly("ping", {}, settings.connect_s)
        except MeshCallError as error:
            await link.close()
            error.outcome = Outcome.NOT_EXECUTED  # what was to be sent was not
            raise
        except BaseException:
            await link.close()
            raise
        return link

    async def _keep(self) -> None:
        """Sign of life of idle connections; the least number of them kept ready."""
        loop = asyncio.get_running_loop()
        while True:
            await self._fill()
            await asyncio.sleep(self._settings.keepalive_s / 2)
            for link in [link for link in self._links if link.alive]:
                if loop.time() - link.used_at < self._settings.keepalive_s / 2:
                    continue
                try:
                    await link.ask_plainly("ping", {}, PING_S)
                except MeshCallError as error:
                    _log.info("a connection to %s is given up: %s", self._host, error.message)
                    link.end("the mesh shows no sign of life")

    async def _fill(self) -> None:
        least = min(self._settings.pool_min, self._settings.pool_size)
        while self._open:
            self._links = [link for link in self._links if link.alive]
            if len(self._links) + self._connecting >= least:
                return
            try:
                await self._another("")
            except MeshCallError as error:
                _log.info("cannot keep connections ready: %s", error.message)
                return


def _initialize(endpoint: str) -> dict[str, object]:
    """Chooses the endpoint of a connection; requests on it stay those of the newest revision."""
    return {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mesh-sdk", "version": "1"},
        "_meta": {META: endpoint},
    }


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether it is TLS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError:
        parts, host, port = None, "", 0
    if parts is None or not host or parts.path.strip("/") or parts.query or parts.username:
        raise MeshCallError(
            ErrorKind.PARAMS, "an address is tcp://HOST[:PORT] or tcps://HOST[:PORT]"
        )
    return host, port, parts.scheme == "tcps"
