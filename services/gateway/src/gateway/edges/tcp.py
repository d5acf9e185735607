"""The TCP-line edge: one ``LineConnection`` per socket, with the limits sockets need.

An asyncio Protocol rather than streams: bytes go to the framer as they come, a half-closed peer
still gets its answers, and a task exists per request, none per connection. Slow and idle peers
are found by one sweep for all of them.
"""

import asyncio
import logging
import socket
import ssl
from typing import cast

from gateway.backend import Backend
from gateway.config import LimitsConfig, TcpConfig
from gateway.edges.admission import EdgeGate, Gate
from gateway.edges.lines import LineConnection
from gateway.edges.linewriter import ENOUGH_BYTES
from mcp_proto.codec import encode_error
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.streams import StreamKind
from mesh_chassis.clock import SYSTEM, Clock

__all__ = ["TcpEdge"]

SWEEP_S = 1.0
LINGER_S = 0.2
"""Connections that the kernel had taken before the listener closed are still served this long."""
BACKLOG = 1_024
KEEPALIVE_S = 30
"""TCP keep-alive: a peer whose machine is gone is noticed (``MCP_KEEPALIVE``)."""

_log = logging.getLogger(__name__)


class TcpEdge:
    """Listens for line-delimited JSON-RPC."""

    name = "tcp"

    def __init__(
        self, config: TcpConfig, limits: LimitsConfig, backend: Backend, *, clock: Clock = SYSTEM
    ) -> None:
        self._config = config
        self._limits = limits
        self._backend = backend
        self._clock = clock
        self._gate = EdgeGate(limits)
        self._server: asyncio.Server | None = None
        self._connections: dict[_Peer, LineConnection] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Connections open."""
        return len(self._connections)

    @property
    def inflight(self) -> int:
        """Requests running."""
        return self._gate.inflight.used

    @property
    def port(self) -> int:
        """Port that is listened on (the real one when 0 was asked for)."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def change_limits(self, limits: LimitsConfig) -> None:
        """Judge by other limits from now on."""
        self._limits = limits
        self._gate.change_limits(limits)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Peer(self),
            self._config.host,
            self._config.port,
            ssl=_tls(self._config),
            backlog=BACKLOG,
            reuse_port=self._config.reuse_port or None,
        )
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)
        _log.info("tcp edge listens", extra={"host": self._config.host, "port": self.port})

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, finish what runs, close.

        Args:
            timeout_s: longest wait for running requests.
        """
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(LINGER_S)
        if self._sweeping is not None:
            self._sweeping.cancel()
        connections = tuple(self._connections.values())
        if connections:
            await asyncio.gather(*(one.drain(timeout_s) for one in connections))
        for _ in range(100):
            if not self._connections:
                break
            await asyncio.sleep(0.01)
        for peer in tuple(self._connections):
            peer.abort()

    def opened(self, peer: "_Peer", transport: asyncio.Transport, source: str) -> bool:
        """A socket was accepted; False when it was refused."""
        try:
            gate = self._gate.connect(source)
        except MeshError as error:
            transport.write(encode_error(None, error) + b"\n")
            transport.close()
            return False
        peer.gate = gate
        self._connections[peer] = LineConnection(
            kind=StreamKind.TCP,
            transport=transport,
            backend=self._backend,
            gate=gate,
            endpoint=self._config.endpoint,
            input_s=self._limits.input_s,
            clock=self._clock,
        )
        return True

    def connection(self, peer: "_Peer") -> LineConnection:
        """The connection of a socket that was let in."""
        return self._connections[peer]

    def closed(self, peer: "_Peer") -> None:
        """A socket that was let in is gone."""
        connection = self._connections.pop(peer)
        connection.lost()
        if peer.gate is not None:
            self._gate.disconnect(peer.gate)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)
        now = self._clock.monotonic()
        limits = self._limits
        for peer, one in tuple(self._connections.items()):
            if not one.spoke and now - one.opened > limits.first_byte_s:
                why = f"nothing was sent within {limits.first_byte_s:g} s"
            elif one.line_began is not None and now - one.line_began > limits.line_s:
                why = f"the line was not complete within {limits.line_s:g} s"
            elif not one.busy and now - one.heard > limits.idle_s:
                why = f"nothing was sent for {limits.idle_s:g} s"
            elif peer.stalled_since is not None and now - peer.stalled_since > limits.line_s:
                peer.abort()
                continue
            else:
                continue
            one.refuse(MeshError(ErrorKind.REQUEST, f"the connection is closed: {why}"))


class _Peer(asyncio.Protocol):
    """One socket."""

    def __init__(self, edge: TcpEdge) -> None:
        self._edge = edge
        self._transport: asyncio.Transport | None = None
        self._connection: LineConnection | None = None
        self.gate: Gate | None = None
        self.stalled_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport, only the same shape.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and raw.family in {socket.AF_INET, socket.AF_INET6}:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=ENOUGH_BYTES)
        peer = transport.get_extra_info("peername")
        source = str(peer[0]) if isinstance(peer, tuple) else ""
        if self._edge.opened(self, transport, source):
            self._connection = self._edge.connection(self)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.feed(data)

    def eof_received(self) -> bool:
        if self._connection is None:
            return False
        self._connection.eof()
        return True

    def pause_writing(self) -> None:
        self.stalled_since = asyncio.get_running_loop().time()
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        self.stalled_since = None
        if self._connection is not None:
            self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection = None
            self._edge.closed(self)

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()


def _tls(config: TcpConfig) -> ssl.SSLContext | None:
    if not config.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    return context
