"""What a gateway takes over while it runs: limits, origins, its words, the path of the metrics.

Listeners, keys and who may come in at all need a restart: a change of them would have to end
connections that were let in under the old rules.
"""

from gateway.config import GatewayConfig, LimitsConfig, check_config
from gateway.edges.http import HttpEdge
from gateway.edges.tcp import TcpEdge
from gateway.handlers import Dispatcher
from gateway.knowledge import Knowledge, facts_of
from mesh_chassis.service import Service

__all__ = ["RELOADED", "add"]

RELOADED = (
    *(
        f"limits.{name}"
        for name in (
            "rate_per_second",
            "burst",
            "inflight",
            "inflight_edge",
            "connections",
            "connections_per_source",
            "principal_share",
            "tenant_share",
            "call_timeout_s",
            "call_timeout_max_s",
            "list_timeout_s",
        )
    ),
    "http.cors_origins",
    "http.allowed_origins",
    "http.allowed_hosts",
    "server.instructions",
    "metrics",
)
"""Keys that need no restart."""


def add(
    service: Service,
    config: GatewayConfig,
    *,
    known: Knowledge,
    dispatcher: Dispatcher,
    edges: tuple[TcpEdge | None, HttpEdge | None],
) -> None:
    """Have ``service`` take ``RELOADED`` over."""
    running = config

    async def apply(new: GatewayConfig) -> None:
        nonlocal running
        if new.limits != running.limits:
            _change_limits(new.limits, dispatcher, edges[0])
        if edges[1] is not None:
            edges[1].change(new)
        if new.server.instructions != running.server.instructions:
            known.catalogs.change_facts(facts_of(new))
        running = new

    service.on_reload(GatewayConfig, RELOADED, apply, check=check_config)


def _change_limits(limits: LimitsConfig, dispatcher: Dispatcher, tcp: TcpEdge | None) -> None:
    dispatcher.change_limits(limits)
    if tcp is not None:
        tcp.change_limits(limits)
