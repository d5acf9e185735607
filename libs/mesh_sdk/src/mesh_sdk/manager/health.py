"""Health of one server: what the registry lists, what its runner says, whether that answers."""

import asyncio
import time
from typing import Any

import msgspec

from mcp_proto.contracts import registry
from mcp_proto.contracts.registry import ListServers, ServerStatus
from mcp_proto.contracts.tool_runner import ServerView
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.server_views import read_views

__all__ = ["ServerHealth", "health_of", "row_of"]

PING_S = 1.0
_SERVICES = ("tool-runner", "agent")


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is. Members can be read as ``health["status"]`` too.

    Attributes:
        server: its id.
        status: ``healthy``, ``degraded`` (it serves, but calls fail or a holder is silent),
            ``starting``, ``unhealthy`` or ``disabled``.
        reason: why it is not healthy; "" while it is.
        instances: processes that hold it.
        tools: number of its tools.
        inflight: calls running.
        restarts: starts after an unwanted end.
        latency_ms: round trip to the process that holds it; None = none answered.
    """

    server: str
    status: str
    reason: str = ""
    instances: tuple[str, ...] = ()
    tools: int = 0
    inflight: int = 0
    restarts: int = 0
    latency_ms: float | None = None

    @property
    def healthy(self) -> bool:
        """Whether calls to it can succeed."""
        return self.status in {"healthy", "degraded"}

    def __getitem__(self, member: str) -> Any:
        if member not in self.__struct_fields__:
            raise KeyError(member)
        return getattr(self, member)


async def row_of(bus: Bus, tenant: str, name: str) -> ServerStatus | None:
    """What the registry lists of a server; None = it knows none."""
    listed = await bus.operation(registry.list_servers, ListServers(tenant=tenant))
    return next((row for row in listed.servers if row.server == name), None)


async def health_of(bus: Bus, tenant: str, name: str, server: str) -> ServerHealth:
    """Ask for the health of a server.

    Args:
        bus: connected as the operator.
        tenant: owner; ``_`` = shared.
        name: of the server.
        server: its id, for the answer.

    Raises:
        MeshCallError: ``not_found``: there is no such server.
    """
    row = await row_of(bus, tenant, name)
    if row is None:
        raise MeshCallError(ErrorKind.NOT_FOUND, f"there is no server {server!r}")
    view = (await read_views(bus)).get((tenant, name))
    pings = await asyncio.gather(*(_ping_ms(bus, instance) for instance in row.instances))
    answered = [ping for ping in pings if ping is not None]
    status, reason = _judged(row, view, silent=len(pings) - len(answered))
    return ServerHealth(
        server=server,
        status=status,
        reason=reason,
        instances=row.instances,
        tools=row.tools,
        inflight=view.inflight if view is not None else 0,
        restarts=view.restarts if view is not None else 0,
        latency_ms=min(answered, default=None),
    )


def _judged(row: ServerStatus, view: ServerView | None, *, silent: int) -> tuple[str, str]:
    if row.state == "disabled":
        return "disabled", "it is switched off in its definition"
    if row.state != "running":
        reason = view.reason if view is not None else "no runner serves it"
        starting = view is not None and view.state == "starting" and not reason
        return ("starting", "it is starting") if starting else ("unhealthy", reason or row.state)
    if silent and silent == len(row.instances):
        return "unhealthy", "the process that holds it does not answer"
    if silent:
        return "degraded", f"{silent} of {len(row.instances)} processes do not answer"
    if view is not None and view.state != "running":
        return "unhealthy", view.reason or f"it is {view.state}"
    if view is not None and view.breaker != "closed":
        return "degraded", "calls to it fail and it is left alone for a while"
    return "healthy", ""


async def _ping_ms(bus: Bus, instance: str) -> float | None:
    for service in _SERVICES:
        began = time.perf_counter()
        try:
            await bus.request(f"$SRV.PING.{service}.{instance}", timeout_s=PING_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                continue
            return None
        return (time.perf_counter() - began) * 1000
    return None
