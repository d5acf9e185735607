"""Contract of ``registry``: what servers exist, what they offer, and who keeps them alive."""

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import Operation

__all__ = [
    "Catalog",
    "CatalogTool",
    "Empty",
    "InstanceRecord",
    "ListChanged",
    "ListServers",
    "Put",
    "PutAnswer",
    "Remove",
    "RestartRecord",
    "RestartServer",
    "ServerDefinition",
    "ServerList",
    "ServerPut",
    "ServerRemove",
    "ServerStatus",
    "list_servers",
    "put",
    "remove",
    "restart_key",
    "server_put",
    "server_remove",
    "server_restart",
]

SERVICE = "registry"


class Empty(msgspec.Struct, frozen=True):
    """An answer without content."""


class CatalogTool(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One tool as its server described it.

    Attributes:
        name: the server's own name of the tool.
        definition: the complete ``Tool`` object, byte for byte as the server sent it.
        permission: permission a caller needs (``ReadKV``); "" = the tool rules alone decide.
    """

    name: str
    definition: msgspec.Raw
    permission: str = ""


class Catalog(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Everything one server offers; the value of ``{tenant}.{server}`` in ``mesh_catalog``.

    Attributes:
        tenant: tenant the server belongs to; ``_`` = every tenant's rules decide.
        server: configured name, the prefix of listed names.
        prefixed: False only for built-in toolsets, whose tools keep their bare names.
        tools: in the server's order, all pages.
        resources: complete ``Resource`` objects, byte for byte.
        resource_templates: complete ``ResourceTemplate`` objects.
        prompts: complete ``Prompt`` objects.
        capabilities: the server's ``ServerCapabilities`` object (``{}`` when none).
        server_info: the server's ``Implementation`` object (``{}`` when unknown).
        instructions: the server's instructions; "" = none.
        single_instance: True when one process owns the state (stdio servers).
        timeout_s: longest call the server's definition allows, in seconds; 0 = the caller's rule.
        hash: SHA-256 hex over everything above except tenant, computed by ``catalog_hash``.
    """

    tenant: str
    server: str
    prefixed: bool = True
    tools: tuple[CatalogTool, ...] = ()
    resources: tuple[msgspec.Raw, ...] = ()
    resource_templates: tuple[msgspec.Raw, ...] = ()
    prompts: tuple[msgspec.Raw, ...] = ()
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    server_info: msgspec.Raw = msgspec.Raw(b"{}")
    instructions: str = ""
    single_instance: bool = False
    timeout_s: float = 0.0
    hash: str = ""


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Heartbeat of one process: value of ``{service}.{instance}`` in ``mesh_instances``.

    Attributes:
        servers: ``{tenant}.{server}`` (decoded names) → catalogue hash, of what it serves now.
        slots: calls it runs at once; inflight: calls running now.
        started_ms: Unix ms at which the process started.
        draining: True once it stops taking work.
        now_ms: Unix ms on its own clock at this beat; beside the broker's time of the write it
            shows how far the clocks are apart (``mesh doctor``).
        declared: ``{tenant}.{server}`` of the servers that its own file tells it to run, whether
            they run or not.
    """

    service: str
    instance: str
    version: str
    node: str = ""
    pid: int = 0
    started_ms: int = 0
    now_ms: int = 0
    slots: int = 0
    inflight: int = 0
    draining: bool = False
    servers: dict[str, str] = {}
    declared: tuple[str, ...] = ()


class Put(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Register a server: hash first; the body only if the answer says it is unknown."""

    tenant: str
    server: str
    instance: str
    hash: str
    catalog: Catalog | None = None


class PutAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``known`` False = send the catalogue; ``revision`` is its KV revision otherwise."""

    known: bool
    revision: int = 0


class Remove(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Deregister ``instance`` from a server; the catalogue goes with its last instance.

    ``forget`` True removes the catalogue even while instances live (``mesh server remove``).
    """

    tenant: str
    server: str
    instance: str
    forget: bool = False


class ServerDefinition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One upstream MCP server: an entry of ``[[mcp_servers]]`` or of bucket ``mesh_servers``.

    Attributes:
        name: server name, the prefix of its tools.
        transport: ``stdio``; others are refused until they exist.
        command: program of a stdio server, found on PATH; never a shell line.
        args: its arguments.
        env: variables added to the small allow-listed environment.
        cwd: working directory; "" = the runner's.
        tenant: owner; ``_`` = shared by every tenant whose rules allow it.
        timeout_s: longest call, in seconds.
        concurrency: calls in flight to the child.
        enabled: False keeps the definition without running it.
    """

    name: str
    transport: str = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    tenant: str = "_"
    timeout_s: float = 30.0
    concurrency: int = 32
    enabled: bool = True
    generation: int = 0
    """Raised by ``server restart``: a runner that sees a new generation restarts the child."""


class ServerPut(msgspec.Struct, frozen=True, kw_only=True):
    """Add or replace a server definition."""

    definition: ServerDefinition
    replace: bool = False


class ServerRemove(msgspec.Struct, frozen=True, kw_only=True):
    """Remove a server definition added at run time, and its catalogue."""

    name: str
    tenant: str = "_"


class RestartServer(msgspec.Struct, frozen=True, kw_only=True):
    """Restart the child of a server (also one from a configuration file)."""

    name: str
    tenant: str = "_"


class RestartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Value of ``restart.{tenant}.{server}`` in ``mesh_servers``.

    Written for a server that has no definition in the bucket (one from a runner's own file); a
    runner that sees a higher generation restarts the child.
    """

    name: str
    tenant: str
    generation: int


class ListChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``mesh.v1.{tenant}.evt.list_changed.{server}``.

    Attributes:
        hash: hash of the new catalogue; "" = the server is gone.
        changed: which lists differ: ``tools``, ``resources``, ``prompts``; may be empty when
            only instructions or capabilities changed.
    """

    tenant: str
    server: str
    hash: str
    changed: tuple[str, ...]


class ListServers(msgspec.Struct, frozen=True, kw_only=True):
    """``tenant`` "" = all tenants."""

    tenant: str = ""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One row of ``mesh server list``; ``state``: running, down or disabled."""

    tenant: str
    server: str
    state: str
    instances: tuple[str, ...]
    tools: int
    hash: str
    defined: str
    """Where the definition comes from: ``config``, ``runtime`` or ``native``."""
    definition: ServerDefinition | None = None


class ServerList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``list_servers``, sorted by tenant and name."""

    servers: tuple[ServerStatus, ...]


def restart_key(tenant: str, server: str) -> str:
    """Key of a ``RestartRecord`` in ``mesh_servers``.

    Three tokens, so that it never meets a definition's key ``{tenant}.{server}``.
    """
    return buckets.key("restart", tenant, server)


put = Operation(SERVICE, "put", Put, PutAnswer)
remove = Operation(SERVICE, "remove", Remove, Empty)
list_servers = Operation(SERVICE, "list", ListServers, ServerList)
server_put = Operation(SERVICE, "server-put", ServerPut, Empty)
server_remove = Operation(SERVICE, "server-remove", ServerRemove, Empty)
server_restart = Operation(SERVICE, "server-restart", RestartServer, Empty)
