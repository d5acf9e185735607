"""Contract of ``registry``: what servers exist, what they offer, and who keeps them alive."""

from typing import Any

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import Operation
from mcp_proto.sandboxes import SandboxOptions

__all__ = [
    "HELD_BY",
    "Catalog",
    "CatalogTool",
    "Empty",
    "InstanceRecord",
    "LeftOut",
    "ListChanged",
    "ListServers",
    "OAuthClient",
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
        prefixed: False where tools and prompts keep their bare names: built-in toolsets, and
            servers that are mounted without a prefix.
        mounted: True for the latter; a name that another server has is then left out.
        tools: in the server's order, all pages.
        resources: complete ``Resource`` objects, byte for byte.
        resource_templates: complete ``ResourceTemplate`` objects.
        resource_permission: permission a caller needs to read or watch its resources; "" = the
            tool rules alone decide.
        prompts: complete ``Prompt`` objects.
        capabilities: the server's ``ServerCapabilities`` object (``{}`` when none).
        server_info: the server's ``Implementation`` object (``{}`` when unknown).
        instructions: the server's instructions; "" = none.
        single_instance: True when one process owns the state (stdio servers).
        timeout_s: longest call the server's definition allows, in seconds; 0 = the caller's rule.
        ttls_ms: how long the server lets its lists be kept, by member of the list's result
            (``tools``, ``resources``, ``resourceTemplates``, ``prompts``) and ``discover``; a
            list without an entry came without a hint.
        tasks: tool name, or ``*`` → whether it runs as a durable task, where that is not
            ``optional`` (``contracts.tasks.policy_of``).
        hash: SHA-256 hex over everything above except tenant, computed by ``catalog_hash``.
    """

    tenant: str
    server: str
    prefixed: bool = True
    mounted: bool = False
    tools: tuple[CatalogTool, ...] = ()
    resources: tuple[msgspec.Raw, ...] = ()
    resource_templates: tuple[msgspec.Raw, ...] = ()
    resource_permission: str = ""
    prompts: tuple[msgspec.Raw, ...] = ()
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    server_info: msgspec.Raw = msgspec.Raw(b"{}")
    instructions: str = ""
    single_instance: bool = False
    timeout_s: float = 0.0
    ttls_ms: dict[str, int] = {}
    tasks: dict[str, str] = {}
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
    """Register a server: hash first; the body only if the answer says it is unknown.

    ``replace`` True = an agent takes its name over from agents that offer something else.
    """

    tenant: str
    server: str
    instance: str
    hash: str
    catalog: Catalog | None = None
    replace: bool = False


HELD_BY = "heldBy"
"""Member of the data of a refused ``put``: instances that serve another catalogue under the name.
It is worth asking again, because the name is free as soon as they are gone."""


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


class OAuthClient(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How a runner gets access tokens for a server: OAuth 2.1 as MCP uses it.

    Without ``token_url`` the authorization server is found as MCP says: from the server's refusal,
    by protected resource metadata and authorization server metadata.

    Attributes:
        grant: ``client_credentials`` (RFC 6749, 4.4), or ``authorization_code`` with PKCE; where
            that needs a person's consent, ``mesh server login`` gives it.
        token_url: token endpoint of the authorization server, ``https``; "" = discovered.
        issuer: the only authorization server that is believed; "" = the one that the server
            names, which then never gets a ``client_secret``.
        client_id: as registered there; "" = the client registers itself.
        client_secret: reference as in ``ServerDefinition.bearer``, never the secret itself; "" = a
            public client.
        client_metadata_url: ``https`` URL of a client ID metadata document, which is the client's
            id where the authorization server takes one.
        redirect_url: where authorization codes are sent, as registered; runners never connect to
            it, ``mesh server login`` listens there if it is on this machine.
        scopes: all that is ever asked for; () = what the server asks for, more when it says so.
        resource: audience asked for (RFC 8707); "" = what the metadata says, else the server's URL.
        client_auth: where the client's credentials go: ``basic`` (header) or ``post`` (form);
            "" = as the authorization server says, ``basic`` if it does not.
    """

    grant: str = "client_credentials"
    token_url: str = ""
    issuer: str = ""
    client_id: str = ""
    client_secret: str = ""
    client_metadata_url: str = ""
    redirect_url: str = "http://127.0.0.1:33418/callback"
    scopes: tuple[str, ...] = ()
    resource: str = ""
    client_auth: str = ""


class ContainerOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How the container of a server with an ``image`` is run.

    Attributes:
        network: ``none`` = it reaches nothing; ``bridge`` (what ``docker run`` gives) or another
            network of the engine.
        memory_mb: most memory, in MiB, without swap; 0 = as the runner's ``[containers]`` says.
        pids: most processes and threads; 0 = as the runner's ``[containers]`` says.
        cpus: most processors; 0 = as the runner's ``[containers]`` says.
        user: ``user[:group]`` in it; "" = that of the image.
        read_only: its file system cannot be written, but for ``/tmp``.
    """

    network: str = "none"
    memory_mb: int = 0
    pids: int = 0
    cpus: float = 0.0
    user: str = ""
    read_only: bool = False


class ServerDefinition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One upstream MCP server: an entry of ``[[mcp_servers]]`` or of bucket ``mesh_servers``.

    What may stand where is in ``mcp_proto.server_definitions`` and ``mcp_proto.server_types``.

    Attributes:
        name: server name, the prefix of its tools.
        type: ``custom`` = an MCP server, reached as the fields below say; any other type is run
            by the runner itself from ``settings`` (``mcp_proto.server_types``).
        settings: of the type.
        transport: ``stdio``, ``http`` (streamable HTTP, both eras), ``sse`` (HTTP+SSE of
            2024-11-05) or ``tcp`` (one JSON message per line).
        command: program of a stdio server, found on PATH; never a shell line. With ``image``:
            run instead of the image's own entry point.
        args: its arguments.
        env: variables added to the small allow-listed environment; a container gets only these.
        cwd: working directory; "" = the runner's, or the image's.
        image: OCI image (``ghcr.io/acme/server:1``); the stdio server is run in a container of
            it by the Docker engine of the runner. "" = a program of the runner's machine.
        container: how that container is run; None = all defaults.
        isolation: walls around the process of a stdio server or of type ``command``: ``none``,
            ``sandbox``, ``container`` (with an ``image``) or ``vm``; "" = ``container`` with an
            image, else ``none``, or what ``[sandbox] tenant_servers`` of the runner says of a
            tenant's own server added at run time.
        sandbox: what it may there; None = nothing but its own program.
        url: of ``http`` and ``sse``: the endpoint; of ``tcp``: ``tcp://HOST:PORT``.
        headers: sent with every HTTP request; a value may be a secret reference.
        bearer: access token as a secret reference: ``env:NAME``, ``file:PATH`` or
            ``aws:NAME[#FIELD]`` (Secrets Manager).
        oauth: how tokens are had, instead of ``bearer``.
        allow_private: names, addresses and networks (``10.0.0.0/8``) inside the operator's net
            that this server may be at; not honoured for a tenant's own server added at run time.
        tls_ca_file: certificate authorities trusted for it; "" = the system's.
        era: ``auto`` = find out; ``legacy`` = talk in revisions up to 2025-11-25 even if it knows
            the newer one, because its tools ask their client the old way.
        prefix: None = tools and prompts are listed as ``name__tool``; "" = under their own names,
            where no other server has them.
        tenant: owner; ``_`` = shared by every tenant whose rules allow it.
        timeout_s: longest call, in seconds.
        concurrency: calls in flight to the server.
        enabled: False keeps the definition without running it.
        task: whether its tools run as durable tasks: ``never``, ``optional`` (when the caller
            asks), ``always`` (whenever the caller can take one) or ``required``.
        task_tools: the same for single tools.
    """

    name: str
    type: str = "custom"
    settings: dict[str, Any] = {}
    transport: str = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    image: str = ""
    container: ContainerOptions | None = None
    isolation: str = ""
    sandbox: SandboxOptions | None = None
    url: str = ""
    headers: dict[str, str] = {}
    bearer: str = ""
    oauth: OAuthClient | None = None
    allow_private: tuple[str, ...] = ()
    tls_ca_file: str = ""
    era: str = "auto"
    prefix: str | None = None
    tenant: str = "_"
    timeout_s: float = 30.0
    concurrency: int = 32
    enabled: bool = True
    task: str = "optional"
    task_tools: dict[str, str] = {}
    generation: int = 0
    """Raised by ``server restart``: a runner that sees a new generation restarts the server."""
    origin: str = ""
    """Where the registry found it: ``etcd``, ``consul`` or ``static``; "" = somebody wrote it."""


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
    """Where the definition comes from: ``config``, ``runtime``, ``native``, or where the registry
    found it: ``etcd``, ``consul``, ``static``."""
    hidden: tuple[str, ...] = ()
    """Own tool names that are not listed because another server has them (no prefix)."""
    definition: ServerDefinition | None = None


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that was found but is no server here, and why; ``origin`` is where."""

    name: str
    origin: str
    reason: str


class ServerList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``list_servers``, sorted by tenant and name."""

    servers: tuple[ServerStatus, ...]
    left_out: tuple[LeftOut, ...] = ()
    """Agents that discovery found and could not use; those of the registry that asks for them."""


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
