"""Agents outside the mesh: where they are looked for, and how one of them is written down.

One rule for ``mesh.toml`` and the registry, which look at the same tables.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.ids import is_server_name
from mcp_proto.server_definitions import is_secret_reference, network_of, url_problem
from mcp_proto.subjects import PLATFORM

__all__ = [
    "KNOWN_MAX",
    "OPERATORS_OWN",
    "STATIC",
    "AgentsTable",
    "DiscoveryTable",
    "KnownAgent",
    "agents_problem",
    "definition_of",
    "discovery_problem",
    "endpoint_url",
]

STATIC = "static"
"""Origin of servers from the list ``[[agents.known]]``."""
OPERATORS_OWN = ("", STATIC)
"""Origins of definitions that an operator wrote; what others announce is not believed so far."""

KNOWN_MAX = 500
"""Agents of one list."""

_NETWORKS_MAX = 64

Seconds = Annotated[float, Meta(ge=1, le=86_400)]


class KnownAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[agents.known]]``: an agent that speaks MCP over HTTP.

    Attributes:
        name: the name of the server that it becomes.
        url: its endpoint; without a path ``/mcp`` is meant.
        capabilities: what it is for, in words; its own lists say what it offers.
        enabled: False keeps the entry without using it.
    """

    name: str
    url: str
    capabilities: tuple[str, ...] = ()
    enabled: bool = True


class AgentsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[agents]``: ``known`` lists agents whose addresses do not change."""

    known: tuple[KnownAgent, ...] = ()


class DiscoveryTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[discovery]``: where agents outside the mesh are found, and the mesh by them.

    Attributes:
        enabled: whether they are looked for. ``[[agents.known]]`` are used in any case.
        type: ``etcd`` or ``consul``; ``static`` = only ``[[agents.known]]``; ``nats`` = only
            agents on the mesh's own broker, which need no looking for.
        etcd_endpoints: ``http://HOST:2379`` of the members of the cluster, tried in turn.
        etcd_prefix: agents are the keys below ``{etcd_prefix}agents/``.
        etcd_user: user of etcd; "" = its authentication is off.
        etcd_password: that user's password as ``env:NAME`` or ``file:PATH``.
        consul_url: ``http://HOST:8500`` of a Consul agent.
        consul_service: agents are the instances of this service.
        consul_token: its ACL token as ``env:NAME`` or ``file:PATH``; "" = none.
        tls_ca_file: certificate authorities trusted for either; "" = the system's.
        registry_ttl_seconds: how long an agent that is no longer seen stays, and how long others
            see us once we are gone.
        heartbeat_interval_seconds: how often we say that we live, and look again; at most half of
            ``registry_ttl_seconds``.
        allow_networks: private addresses, networks and names that found agents may be at.
        announce_url: address of a gateway as others reach it; "" = nothing is announced.
        announce_name: name under which it is announced; "" = that of ``[server]``.
    """

    enabled: bool = False
    type: Literal["nats", "etcd", "consul", "static"] = "nats"
    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: Annotated[str, Meta(pattern=r"\A[!-~]{0,128}\Z")] = "mcp:"
    etcd_user: str = ""
    etcd_password: str = ""
    consul_url: str = ""
    consul_service: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]{1,63}\Z")] = "mcp"
    consul_token: str = ""
    tls_ca_file: str = ""
    registry_ttl_seconds: Seconds = 60.0
    heartbeat_interval_seconds: Seconds = 30.0
    allow_networks: tuple[str, ...] = ()
    announce_url: str = ""
    announce_name: str = ""

    @property
    def source(self) -> str:
        """``etcd`` or ``consul``; "" when neither is asked."""
        return self.type if self.enabled and self.type in {"etcd", "consul"} else ""


def discovery_problem(table: DiscoveryTable) -> str | None:
    """``key: what is wrong with it`` in ``[discovery]``; None when nothing is."""
    if table.heartbeat_interval_seconds * 2 > table.registry_ttl_seconds:
        return (
            "heartbeat_interval_seconds: must be at most half of registry_ttl_seconds, "
            "or one lost heartbeat takes agents away"
        )
    if table.source == "etcd" and not table.etcd_endpoints:
        return 'etcd_endpoints: missing, type "etcd" needs them'
    if table.source == "consul" and not table.consul_url:
        return 'consul_url: missing, type "consul" needs it'
    urls = [("etcd_endpoints", one) for one in table.etcd_endpoints]
    urls += [("consul_url", table.consul_url), ("announce_url", table.announce_url)]
    for key, url in urls:
        problem = url_problem(key, url) if url else None
        if problem is not None:
            return f"{key}: {problem}"
    return _secret_problem(table) or _names_problem(table)


def _secret_problem(table: DiscoveryTable) -> str | None:
    if bool(table.etcd_user) != bool(table.etcd_password):
        return "etcd_user: user and password go together"
    for key, value in (
        ("etcd_password", table.etcd_password),
        ("consul_token", table.consul_token),
    ):
        if value and (not is_secret_reference(value) or value.startswith("aws:")):
            return f"{key}: must name a secret as env:NAME or file:PATH, never hold it"
    return None


def _names_problem(table: DiscoveryTable) -> str | None:
    if table.announce_name and not is_server_name(table.announce_name):
        return f"announce_name: {table.announce_name[:64]!r} cannot be the name of a server"
    if len(table.allow_networks) > _NETWORKS_MAX:
        return f"allow_networks: at most {_NETWORKS_MAX}"
    for entry in table.allow_networks:
        if "/" in entry and network_of(entry) is None:
            return f"allow_networks: {entry[:64]!r} is no network"
    return None


def agents_problem(table: AgentsTable) -> str | None:
    """``key: what is wrong with it`` in ``[agents]``; None when nothing is."""
    if len(table.known) > KNOWN_MAX:
        return f"known: at most {KNOWN_MAX} agents"
    seen: set[str] = set()
    for at, agent in enumerate(table.known):
        key = f"known[{at}]"
        if not is_server_name(agent.name):
            return f"{key}.name: {agent.name[:64]!r} cannot be the name of a server"
        if agent.name in seen:
            return f"{key}.name: {agent.name!r} is used twice"
        seen.add(agent.name)
        problem = url_problem("url", agent.url) if agent.enabled else None
        if problem is not None:
            return f"{key}.url: {problem}"
    return None


def endpoint_url(url: str) -> str:
    """Where an agent speaks MCP: ``/mcp`` unless its URL has a path or query."""
    _, _, rest = url.partition("://")
    if "?" in rest:
        return url
    host, slash, path = rest.partition("/")
    return url if slash and path else f"{url.rstrip('/')}/mcp" if host else url


def definition_of(name: str, url: str, *, origin: str, allow: tuple[str, ...]) -> ServerDefinition:
    """The shared server that a found agent becomes; it never gets a credential of ours.

    Args:
        name: as found.
        url: as found.
        origin: where.
        allow: private places that it may be at.
    """
    return ServerDefinition(
        name=name,
        transport="http",
        url=endpoint_url(url),
        allow_private=allow,
        tenant=PLATFORM,
        origin=origin,
    )
