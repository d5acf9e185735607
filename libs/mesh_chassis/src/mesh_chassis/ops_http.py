"""A small HTTP listener for operators: ``/healthz``, ``/readyz``, ``/metrics``.

For services without an HTTP edge of their own; it exists only where a port is configured. It
listens on loopback unless told otherwise and checks ``Host``, so that a web page cannot read
it through a name that resolves to loopback.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Generator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mesh_chassis.config import OpsConfig
from mesh_chassis.health import Health
from mesh_chassis.metrics import CONTENT_TYPE, Metrics
from mesh_chassis.tasks import Tasks

__all__ = ["CONNECTIONS_MAX", "HostCheck", "OpsListener", "host_of", "ops_app"]

CONNECTIONS_MAX = 64
"""Connections and requests at once; scrapers are few."""

KEEP_ALIVE_S = 5
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_JSON = "application/json"


def host_of(header: str) -> str:
    """Host name of a ``Host`` header: without port and brackets, lower case, no final dot."""
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    return name.rstrip(".").lower()


class HostCheck:
    """ASGI layer that refuses (421) requests whose ``Host`` is not one of ours.

    Args:
        app: what is protected.
        allowed: accepted names beside the loopback ones, lower case.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._allowed = allowed | LOOPBACK_HOSTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "http":
            names = [value for name, value in scope["headers"] if name == b"host"]
            if len(names) != 1 or host_of(names[0].decode("latin-1")) not in self._allowed:
                await Response("unknown host\n", status_code=421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def ops_app(health: Health, metrics: Metrics, allowed: frozenset[str] = frozenset()) -> ASGIApp:
    """The three routes behind a host check.

    ``/healthz`` answers the health report (503 when a required part is down), ``/readyz``
    ``{"ready": bool, "reasons": […]}`` (503 when not ready), ``/metrics`` Prometheus text.
    """

    async def healthz(_: Request) -> Response:
        report = health.report()
        return Response(
            msgspec.json.encode(report), status_code=report.http_status, media_type=_JSON
        )

    async def readyz(_: Request) -> Response:
        reasons = health.reasons()
        body = msgspec.json.encode({"ready": not reasons, "reasons": reasons})
        return Response(body, status_code=503 if reasons else 200, media_type=_JSON)

    async def exposition(_: Request) -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
    ]
    return HostCheck(Starlette(routes=routes), allowed)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: stopping is the runtime's decision."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


class OpsListener:
    """The listener of one process.

    Args:
        config: table ``[ops]``.
        health: answers ``/healthz`` and ``/readyz``.
        metrics: answers ``/metrics``.
    """

    def __init__(self, config: OpsConfig, health: Health, metrics: Metrics) -> None:
        self._config = config
        allowed = {host_of(name) for name in config.allowed_hosts}
        if not _is_wildcard(config.host):
            allowed.add(host_of(config.host) if ":" not in config.host else config.host.lower())
        self._server = _Server(
            uvicorn.Config(
                ops_app(health, metrics, frozenset(allowed)),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self.port = 0
        """Port it listens on, once started."""

    async def start(self, tasks: Tasks) -> None:
        """Bind and serve.

        Raises:
            OSError: the address is taken or not ours.
        """
        family = socket.AF_INET6 if ":" in self._config.host else socket.AF_INET
        listener = socket.create_server((self._config.host, self._config.port), family=family)
        self.port = listener.getsockname()[1]
        self._serving = tasks.spawn(self._server.serve(sockets=[listener]), name="ops-http")

    async def stop(self) -> None:
        """Close the listener and end open requests within a second or two."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await asyncio.wait([self._serving], timeout=3)
        self._serving = None


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
