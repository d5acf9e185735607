"""The HTTP listener: uvicorn's protocol with the limits that a public socket needs.

Only uvicorn's connection class is used, not its server: the process has one loop, one set of
signal handlers and one drain, and they are the chassis'. Added to each connection are caps by
source, time limits for headers and for readers that do not read, size limits for header blocks,
and a state that lets the application hear at once that its client is gone.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from gateway.config import HttpConfig, LimitsConfig
from gateway.edges.admission import EdgeGate, Gate
from mcp_proto.codec import encode_error
from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["HttpConnection", "HttpServer", "write_whole"]

HEADER_BYTES_MAX = 16 * 1024
HEADER_FIELDS_MAX = 100
"""Bounds of one header block, request line included; above them: 431."""
KEEP_ALIVE_MAX_S = 75
LINGER_S = 0.2
REFUSED_S = 1.0
"""How long a refused client may go on sending before the connection is closed."""
CLOSE_LOOK_S = 0.01
CLOSE_LOOKS = 50
LARGE_BYTES = 256 * 1024
"""Bodies above this size are not copied to leave in one write with their head."""
BACKLOG = 1_024
STATE = "mesh.connection"
"""Key of the ``HttpConnection`` in the ASGI scope."""
BODY = "mesh.body"
"""Key of what knows in ``more_body`` whether the whole body is here already."""

_log = logging.getLogger(__name__)


class HttpConnection:
    """What the application knows of a connection.

    Attributes:
        gate: its limits.
        loop: the loop it lives on.
        on_lost: called once when it is gone; set for the length of one request.
        source: address of the client.
    """

    __slots__ = ("gate", "loop", "lost", "on_lost", "source")

    def __init__(self, gate: Gate, source: str, loop: asyncio.AbstractEventLoop) -> None:
        self.gate = gate
        self.loop = loop
        self.source = source
        self.lost = False
        self.on_lost: Callable[[], object] | None = None


_JSON_HEAD = {
    status: line + b"content-type: application/json\r\ncontent-length: "
    for status, line in STATUS_LINE.items()
}


def write_whole(cycle: RequestResponseCycle, status: int, body: bytes) -> bool:
    """Answer with a whole JSON body in one write: what ``cycle.send`` does in two messages.

    The usual answer has no header of its own, so there is nothing to check and little to build;
    through the two messages of ASGI it costs a sixth of all the Python in a call.

    Returns:
        Whether it was taken; else the caller sends it the long way.
    """
    if not body or cycle.response_started or cycle.flow.write_paused:
        return False
    if cycle.scope["method"] == "HEAD":
        return False
    if cycle.disconnected:
        return True
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    alive = b"\r\n\r\n" if cycle.keep_alive else b"\r\nconnection: close\r\n\r\n"
    if len(body) > LARGE_BYTES:  # not copied once more
        cycle.transport.write(b"%b%d%b" % (_JSON_HEAD[status], len(body), alive))
        cycle.transport.write(body)
    else:
        cycle.transport.write(b"%b%d%b%b" % (_JSON_HEAD[status], len(body), alive, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class _JoinedWrites:
    """A transport that lets a header block wait for its body, so that both leave in one write.

    uvicorn writes them one after the other, and uvloop hands every write to the kernel at once:
    a system call per answer is what this saves. Whatever is not followed by a body in
    the same turn of the loop (HEAD, streams) leaves with the next turn.
    """

    __slots__ = ("_held", "_loop", "_transport", "is_closing", "lingers")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.lingers = False
        """Whether the first ``close`` waits for the client to close."""
        self.is_closing = transport.is_closing  # bound once: asked twice per request

    def write(self, data: bytes) -> None:
        if self._held:
            if len(data) > LARGE_BYTES:
                self._release()  # a copy of the body would cost more than one more write
            else:
                data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._held = data
            self._loop.call_soon(self._release)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._release()
        if self.lingers:
            self.lingers = False
            self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def write_eof(self) -> None:
        self._release()
        self._transport.write_eof()

    def _release(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            if not self._transport.is_closing():
                self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    """One connection."""

    edge: "HttpServer"

    def __init__(self, edge: "HttpServer") -> None:
        super().__init__(edge.uvicorn, edge.state, {}, asyncio.get_running_loop())
        self.edge = edge
        self._mesh: HttpConnection | None = None
        self._refused = False
        self._header_bytes = 0
        self._unfinished = 0
        self._began = False
        self._in_headers = True
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = _JoinedWrites(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._joined))
        source = self.client[0] if self.client else ""
        try:
            self._mesh = HttpConnection(self.edge.gate.connect(source), source, self.loop)
            self._mesh.gate.shed = self._shed
        except MeshError as error:
            self._answer(503, encode_error(None, error), retry_after_s=error.retry_after_s)
            return
        self._arm_headers(self.edge.limits.first_byte_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._header_timer, self._stall_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        mesh = self._mesh
        if mesh is not None:
            self._mesh = None
            mesh.lost = True
            self.edge.gate.disconnect(mesh.gate)
            if mesh.on_lost is not None:
                mesh.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._began = False
        super().data_received(data)
        if not self._in_headers or self.transport.is_closing():
            return
        if self._header_timer is None:
            self._arm_headers(self.edge.limits.header_s)
        if not self._began:
            # The parser keeps an unfinished line to itself: what it was fed counts as well. The
            # piece in which the block began may hold the end of a body, so it does not.
            self._unfinished += len(data)
            if self._unfinished > HEADER_BYTES_MAX:
                self._header_bytes = self._unfinished
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[STATE] = self._mesh  # type: ignore[typeddict-unknown-key]
        self._in_headers = self._began = True
        self._header_bytes = self._unfinished = 0
        if self._header_timer is not None:
            # Armed for the first byte; from here the block as a whole has its own limit.
            self._header_timer.cancel()
            self._header_timer = None

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _HeadersTooLargeError
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Everything in one frame: this runs for each header of each call.
        self._header_bytes += len(name) + len(value) + 4
        headers = self.headers
        if self._header_bytes > HEADER_BYTES_MAX or len(headers) >= HEADER_FIELDS_MAX:
            raise _HeadersTooLargeError
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()
        self.scope[BODY] = self.cycle  # type: ignore[typeddict-unknown-key]
        if self.edge.draining():
            # Our end must not overtake a client that still reads: fetch of Node up to 24 fails
            # outside of any promise then, and its process with it (nodejs/undici issue 5360).
            self._joined.lingers = self.cycle.keep_alive
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        # uvicorn arms and cancels a timer per answer; here one per connection looks now and then.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        """Close a connection without a request for the time allowed; look again otherwise."""
        self._idle_timer = None
        if self.transport.is_closing() or not self._waits():
            return  # the answer under way arms it again
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left_s, self._look_idle)

    def _waits(self) -> bool:
        """Whether nothing is asked: no request runs and none has begun to arrive."""
        return not self._in_headers and self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle and cycle.response_started and not cycle.response_complete:
            self.transport.abort()  # half an answer is out: another status would be read as body
            return
        fields = len(self.headers or ())
        large = self._header_bytes > HEADER_BYTES_MAX or fields >= HEADER_FIELDS_MAX
        kind, status = (ErrorKind.TOO_LARGE, 431) if large else (ErrorKind.REQUEST, 400)
        text = "the header block is too large" if large else "not a valid HTTP request"
        self._answer(status, encode_error(None, MeshError(kind, text)))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.edge.limits.body_s, self._stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _shed(self, error: MeshError) -> None:
        if self.cycle and self.cycle.response_started:
            self.transport.abort()
        else:
            self._answer(503, encode_error(None, error), retry_after_s=error.retry_after_s)

    def _stalled(self) -> None:
        _log.info("a client does not read its answer and is cut")
        self.transport.abort()

    def _arm_headers(self, seconds: float) -> None:
        self._header_timer = self.loop.call_later(seconds, self._headers_late)

    def _headers_late(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self.cycle and not self.cycle.response_complete:
            self.transport.abort()
            return
        error = MeshError(ErrorKind.REQUEST, "the header block was not complete in time")
        self._answer(408, encode_error(None, error))

    def _answer(self, status: int, body: bytes, *, retry_after_s: float | None = None) -> None:
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
        retry = b"" if retry_after_s is None else b"retry-after: %d\r\n" % max(1, retry_after_s)
        self.transport.write(STATUS_LINE[status] + head % len(body) + retry + b"\r\n" + body)
        # Closing with bytes unread would reset the connection and the answer with it: say that
        # nothing more comes, read on into the void for a moment, then close.
        self._refused = True
        if self._header_timer is not None:
            self._header_timer.cancel()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._header_timer = self.loop.call_later(REFUSED_S, self.transport.close)
        else:
            self.transport.close()


class _HeadersTooLargeError(Exception):
    """Ends the parse of a header block."""


class HttpServer:
    """Listens, and drains without losing a request.

    Args:
        config: table ``[http]``.
        limits: table ``[limits]``.
        app: ASGI application; finds its ``HttpConnection`` in the scope.
        draining: whether the process is about to stop: answers then end their connection, so
            that clients come back elsewhere before the listener closes.
    """

    def __init__(
        self,
        config: HttpConfig,
        limits: LimitsConfig,
        app: Any,
        *,
        draining: Callable[[], bool],
    ) -> None:
        self._config = config
        self.limits = limits
        self.draining = draining
        self.gate = EdgeGate(limits)
        self.state = ServerState()
        self.uvicorn = Config(
            app,
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(min(limits.idle_s, KEEP_ALIVE_MAX_S)) or 1,
        )
        self.uvicorn.load()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Port that is listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(self),
            self._config.host,
            self._config.port,
            ssl=_tls(self._config),
            backlog=BACKLOG,
        )
        _log.info("http edge listens", extra={"host": self._config.host, "port": self.port})

    async def stop(self, timeout_s: float) -> None:
        """Close the listener, finish what runs, close connections.

        Args:
            timeout_s: longest wait for running requests; then they are cancelled.
        """
        if self._server is not None:
            self._server.close()
            # Connections the kernel had accepted are still served.
            await asyncio.sleep(LINGER_S)
        for connection in tuple(self.state.connections):
            connection.shutdown()
        tasks = tuple(self.state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        await self._close_connections()

    async def _close_connections(self) -> None:
        for connection in tuple(self.state.connections):
            connection.transport.close()
        for _ in range(CLOSE_LOOKS):
            if not self.state.connections:
                return
            await asyncio.sleep(CLOSE_LOOK_S)
        for connection in tuple(self.state.connections):
            connection.transport.abort()


def _tls(config: HttpConfig) -> ssl.SSLContext | None:
    if not config.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    return context
