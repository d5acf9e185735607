"""The HTTP edge: checks that hold on every route, and the routes.

A plain ASGI callable instead of a framework on the way of a call: `/mcp` is most of the traffic
and every microsecond here is paid once per call. What each route does is in ``mcp_http`` (MCP,
both eras) and ``plain_http`` (`POST /tools/<tool>`, health, metrics).
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.backend import HttpBackend
from gateway.config import GatewayConfig, is_loopback
from gateway.core import httprules
from gateway.core.httprules import CORS_EXPOSED, CORS_HEADERS, HostRules
from gateway.edges.exchange import MCP_PATHS, ClientGoneError, Exchange, Receive, Refused, Scope
from gateway.edges.http_server import HttpServer
from gateway.edges.mcp_http import McpRoute
from gateway.edges.plain_http import PlainRoutes
from gateway.edges.sse import Headers, Send
from gateway.identity import Caller
from gateway.peers import Peers
from gateway.sessions import Sessions
from mcp_proto.endpoints import of_path as endpoint_of
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics

__all__ = ["HttpEdge"]

_log = logging.getLogger(__name__)


class HttpEdge:
    """Listens on HTTP; an ASGI application itself."""

    name = "http"

    def __init__(
        self,
        config: GatewayConfig,
        *,
        backend: HttpBackend,
        sessions: Sessions,
        peers: Peers,
        health: Health,
        metrics: Metrics,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._take(config)
        self._backend = backend
        self._mcp = McpRoute(backend=backend, sessions=sessions, limits=config.limits, peers=peers)
        self._plain = PlainRoutes(
            backend=backend, health=health, metrics=metrics, limits=config.limits
        )
        self.server = HttpServer(config.http, config.limits, self, draining=draining)

    def _take(self, config: GatewayConfig) -> None:
        http = config.http
        self._rules = HostRules.of(
            host=http.host,
            loopback=is_loopback(http.host),
            allowed_hosts=http.allowed_hosts,
            origins=(*http.allowed_origins, *http.cors_origins),
        )
        self._cors = frozenset(origin.lower().rstrip("/") for origin in http.cors_origins)
        self._metrics_path = config.metrics.path if config.metrics.enabled else ""

    def change(self, config: GatewayConfig) -> None:
        """Other origins, limits and path of the metrics from now on; who is in stays in."""
        self._take(config)
        self.server.limits = config.limits
        self.server.gate.change_limits(config.limits)

    @property
    def port(self) -> int:
        """Port that is listened on."""
        return self.server.port

    async def start(self) -> None:
        """Listen."""
        await self.server.start()

    async def drain(self, timeout_s: float) -> None:
        """Take no more, finish what runs; streams end in order.

        Args:
            timeout_s: longest wait for running requests.
        """
        self._mcp.end_streams()
        await self.server.stop(timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, {})
        try:
            exchange.heads = httprules.read(scope["headers"])
            await self._route(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except MeshError as error:
            # Duplicate headers, unreadable credentials: nothing of the request was looked at.
            await exchange.refuse(Refused(error.http_status, error))
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            if not exchange.connection.lost:
                raise
        except Exception:  # noqa: BLE001 - whatever fails, its request is answered
            _log.exception("a request failed")
            internal = MeshError(ErrorKind.INTERNAL, "internal error")
            await exchange.refuse(Refused(500, internal, ((b"connection", b"close"),)))

    async def _route(self, exchange: Exchange) -> None:
        heads = exchange.heads
        host = heads.get(b"host")
        if not self._rules.host_allowed(host):
            raise Refused(421, MeshError(ErrorKind.REQUEST, "this Host is not served here"))
        origin = heads.get(b"origin")
        if origin is not None:
            if not self._rules.origin_allowed(origin, host or b""):
                raise Refused(403, MeshError(ErrorKind.REQUEST, "this Origin is not allowed"))
            exchange.cors = self._cors_headers(origin)
            if exchange.method == "OPTIONS" and exchange.cors:
                await self._preflight(exchange)
                return
        path = exchange.path
        if path in MCP_PATHS:
            await self._mcp.serve(exchange, await self._caller(exchange))
        elif (endpoint := endpoint_of(path)) is not None:
            exchange.endpoint = endpoint
            await self._mcp.serve(exchange, await self._caller(exchange))
        elif path.startswith("/tools/"):
            await self._plain.call_tool(exchange, await self._caller(exchange))
        elif path in {"/health", "/ready", self._metrics_path}:
            if not is_loopback(exchange.connection.source):
                await self._caller(exchange)
            await self._plain.report(exchange, metrics=path == self._metrics_path)
        else:
            raise Refused(404, MeshError(ErrorKind.NOT_FOUND, "no such path"))

    async def _caller(self, exchange: Exchange) -> Caller:
        """Who calls, or a refusal with the status the transport has for it."""
        try:
            credential = httprules.bearer(exchange.heads.get(b"authorization"))
            caller = self._backend.known(credential) or await self._backend.caller(credential)
        except MeshError as error:
            if error.kind is not ErrorKind.UNAUTHENTICATED:
                raise Refused(error.http_status, error) from None
            sent = b"authorization" in exchange.heads
            challenge = (
                b'Bearer realm="mcp", error="invalid_token"' if sent else b'Bearer realm="mcp"'
            )
            raise Refused(401, error, ((b"www-authenticate", challenge),)) from None
        try:
            exchange.connection.gate.own(caller.tenant, caller.principal)
        except MeshError as error:
            raise Refused(error.http_status, error, ((b"connection", b"close"),)) from None
        return caller

    def _cors_headers(self, origin: bytes) -> Headers:
        if origin.decode("latin-1").lower() not in self._cors:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", CORS_EXPOSED.encode()),
            (b"vary", b"origin"),
        )

    async def _preflight(self, exchange: Exchange) -> None:
        asked = exchange.heads.get(b"access-control-request-headers", b"").decode("latin-1")
        extra = [
            name
            for part in asked.lower().split(",")
            if (name := part.strip()).startswith("mcp-param-")
            and name.replace("-", "").replace("_", "").isalnum()
        ]
        allowed = ", ".join([CORS_HEADERS, *extra[:32]])
        await exchange.answer(
            204,
            headers=(
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", allowed.encode("latin-1")),
                (b"access-control-max-age", b"600"),
            ),
        )
