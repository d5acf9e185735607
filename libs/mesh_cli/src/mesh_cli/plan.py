"""What one ``mesh up`` runs: instances, their broker users and their configuration tables.

Pure: from the user's file and the chosen ports to documents; ``bootstrap`` writes them down.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mcp_proto import broker_rights
from mcp_proto.broker_rights import Rights
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.swarm import HOST
from mcp_proto.discovery import AgentsTable
from mcp_proto.ids import is_server_name
from mcp_proto.names import SWARM_COORDINATOR, VM_SPAWNER
from mesh_chassis.addresses import is_loopback
from mesh_cli.user_file import SAMPLE_SERVER, MeshFile
from mesh_sdk.connect import AGENT_SEATS

__all__ = [
    "DEMO_TENANT",
    "FIRST_TENANT",
    "NO_SWARMS",
    "STDIO_SLOTS",
    "Instance",
    "Ports",
    "Size",
    "User",
    "Where",
    "homes",
    "instances",
    "sample_server",
    "size_of",
    "users",
]

DEMO_TENANT = "demo-tenant"
"""Tenant of callers without a credential in development."""
FIRST_TENANT = "default"
"""Tenant made at the first start when callers need a credential."""
STDIO_SLOTS = 16
"""``mesh stdio`` processes at once; each has an inbox of its own."""

SERVICE_MODULES: Mapping[str, str] = {
    "registry": "registry",
    "tenant-auth": "tenant_auth",
    "tool-runner": "tool_runner",
    SWARM_COORDINATOR: "swarm_coordinator",
    HOST: "mesh_agents",
    VM_SPAWNER: "vm_spawner",
    "gateway": "gateway",
}


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Listeners of one start; one HTTP and one TCP port per gateway.

    ``nats_host`` is where services reach the broker.
    """

    nats: int
    nats_host: str = "127.0.0.1"
    http: tuple[int, ...]
    tcp: tuple[int, ...]


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Files the services are told about: seeds by user name, key and pepper files.

    ``static_token_file`` holds the server's own token, ``verifier_key_file`` the key of the
    external verifier; "" = there is none. Agents have their directories below ``work_dir``.
    Machines have theirs below ``machines_dir``; ``issuer_file`` is the key with which tenant-auth
    says to the broker who a machine is, "" = there are no machines.
    """

    seeds: Mapping[str, str]
    kek_file: str
    pepper_file: str
    static_token_file: str = ""
    verifier_key_file: str = ""
    work_dir: str = "agents"
    machines_dir: str = "vm"
    issuer_file: str = ""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One service process.

    Attributes:
        service: ``registry``, ``tenant-auth``, ``tool-runner`` or ``gateway``.
        name: instance id.
        module: module run with ``python -m``.
        tables: its configuration file.
        http: ``http://host:port``; "" unless it is a gateway.
        tcp: ``host:port``; "" unless it is a gateway.
    """

    service: str
    name: str
    module: str
    tables: Mapping[str, Any]
    http: str = ""
    tcp: str = ""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One user of the broker; ``name`` is also the name of its seed file.

    A ``leaf`` is a broker that dials in, and nobody can be that user otherwise.
    """

    name: str
    rights: Rights
    leaf: bool = False


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many of each that a mesh may have several or none of."""

    coordinators: int = 0
    hosts: int = 0
    spawners: int = 0


NO_SWARMS = Size()


def size_of(content: MeshFile) -> Size:
    """What the user's file asks for."""
    spawners = 1 if content.vm.enabled else 0
    if not content.swarm.enabled:
        return Size(spawners=spawners)
    return Size(
        coordinators=content.swarm.coordinators, hosts=content.agents.hosts, spawners=spawners
    )


def names(gateways: int, runners: int, size: Size = NO_SWARMS) -> list[tuple[str, str]]:
    """Service and instance of every process, in the order of their start."""
    return [
        ("registry", "registry-1"),
        ("tenant-auth", "tenant-auth-1"),
        *(("tool-runner", f"runner-{n}") for n in range(1, runners + 1)),
        *((SWARM_COORDINATOR, f"swarm-{n}") for n in range(1, size.coordinators + 1)),
        *((HOST, f"{HOST}-{n}") for n in range(1, size.hosts + 1)),
        *((VM_SPAWNER, f"vm-{n}") for n in range(1, size.spawners + 1)),
        *(("gateway", f"gateway-{n}") for n in range(1, gateways + 1)),
    ]


def users(
    gateways: int, runners: int, *, size: Size = NO_SWARMS, agents_of: str = DEMO_TENANT
) -> list[User]:
    """Every user of the broker: services, stdio edges, the operator, a tenant's plain client.

    Args:
        gateways: number of gateways.
        runners: number of tool-runners.
        size: number of coordinators, hosts and spawners.
        agents_of: tenant of the users made for programs of the SDK; "" = none are made.
    """
    services = [
        User(name=instance, rights=broker_rights.rights_of(service, instance))
        for service, instance in names(gateways, runners, size)
    ]
    edges = [
        User(name=f"stdio-{n}", rights=broker_rights.rights_of("stdio", f"stdio-{n}"))
        for n in range(1, STDIO_SLOTS + 1)
    ]
    # A local mesh: elsewhere each agent gets rights for the names that it serves.
    agents = [
        User(name=f"agent-{n}", rights=broker_rights.agent_rights(agents_of, f"agent-{n}"))
        for n in range(1, AGENT_SEATS + 1)
        if agents_of
    ]
    people = [
        User(name="operator", rights=broker_rights.operator_rights()),
        User(name="demo", rights=broker_rights.client_rights(DEMO_TENANT)),
    ]
    return [*services, *edges, *agents, *people]


def homes(content: MeshFile, tenant: str) -> list[User]:
    """Users of the brokers that dial in with agents of ``tenant``."""
    return [
        User(
            name=f"leaf-{home.name}",
            rights=broker_rights.leaf_rights(tenant, home.agents),
            leaf=True,
        )
        for home in content.leafnodes.homes
    ]


def sample_server(python: str) -> ServerDefinition:
    """A third-party MCP server that comes with the installation."""
    return ServerDefinition(
        name=SAMPLE_SERVER,
        command=python,
        args=("-m", "mcp_server_time", "--local-timezone", "UTC"),
    )


def instances(
    content: MeshFile,
    servers: Sequence[ServerDefinition],
    *,
    ports: Ports,
    where: Where,
    runners: int,
    size: Size = NO_SWARMS,
) -> list[Instance]:
    """Every service process with its configuration, in the order of their start.

    Args:
        content: the user's file.
        servers: upstream MCP servers, the sample one included.
        ports: chosen listeners; their number is the number of gateways.
        where: files on disk.
        runners: number of tool-runners.
        size: number of coordinators and hosts.
    """
    out: list[Instance] = []
    gateway = 0
    for service, name in names(len(ports.http), runners, size):
        tables: dict[str, Any] = {
            "service": {"instance": name},
            "bus": {
                "urls": [f"nats://{ports.nats_host}:{ports.nats}"],
                "nkey_seed_file": where.seeds[name],
            },
            "log": {"level": content.log.level.lower()},
        }
        http = tcp = ""
        if service == "gateway":
            tables |= _gateway(content, where, ports.http[gateway], ports.tcp[gateway])
            http = f"http://{_host(tables['http']['host'])}:{ports.http[gateway]}"
            tcp = f"{_host(tables['tcp']['host'])}:{ports.tcp[gateway]}"
            gateway += 1
        else:
            tables |= _own_tables(service, name, content, servers, where)
        out.append(
            Instance(
                service=service,
                name=name,
                module=SERVICE_MODULES[service],
                tables=tables,
                http=http,
                tcp=tcp,
            )
        )
    return out


def _own_tables(
    service: str,
    name: str,
    content: MeshFile,
    servers: Sequence[ServerDefinition],
    where: Where,
) -> dict[str, Any]:
    """Tables of one service that is no gateway, beside those that every service has."""
    match service:
        case "registry":
            return _registry(content)
        case "tenant-auth":
            return _tenant_auth(content, where)
        case "tool-runner":
            return _tool_runner(content, servers)
        case _ if service == SWARM_COORDINATOR:
            return content.swarm.for_coordinator(allow_unsigned=_unsigned(content))
        case _ if service == HOST:
            return content.agents.for_host(f"{where.work_dir}/{name}")
        case _ if service == VM_SPAWNER:
            return content.machines.for_spawner(
                state_dir=where.machines_dir, allow_unsigned=_unsigned(content)
            )
        case _:
            return {}


def _host(host: str) -> str:
    """An address to connect to: the wildcard listens everywhere but is nowhere."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def development(content: MeshFile) -> bool:
    """Whether callers without a credential are served; who sets a token wants it asked for."""
    return not (content.security.auth_enabled or content.security.auth_token)


def _unsigned(content: MeshFile) -> bool:
    # A call without a context came past the gateways, and so past the verifier.
    return development(content) and not content.integrations.marketeer.on


def _registry(content: MeshFile) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    if content.virtual_servers:
        tables["virtual_servers"] = content.virtual_servers
    if content.agents.known:
        tables["agents"] = AgentsTable(known=content.agents.known)
    if content.discovery.source:
        own = content.server.name if is_server_name(content.server.name) else ""
        name = content.discovery.announce_name or own
        tables["discovery"] = msgspec.structs.replace(content.discovery, announce_name=name)
    # JSON rather than built-ins: it leaves no tuple behind, at any depth.
    return msgspec.json.decode(msgspec.json.encode(tables))


def _redis(content: MeshFile) -> dict[str, Any]:
    """The Redis bridge of every runner; one of them is it."""
    table = content.integrations.dragonfly
    if not table.enabled:
        return {}
    tenant = table.tenant or (DEMO_TENANT if development(content) else FIRST_TENANT)
    encoded = msgspec.json.encode(msgspec.structs.replace(table, tenant=tenant))
    return {"redis": msgspec.json.decode(encoded)}


def _tenant_auth(content: MeshFile, where: Where) -> dict[str, Any]:
    return {
        "security": {
            "development": development(content),
            "pepper_file": where.pepper_file,
            "kek_file": where.kek_file,
            **({"static_token_file": where.static_token_file} if where.static_token_file else {}),
        },
        **({"machines": {"issuer_seed_file": where.issuer_file}} if where.issuer_file else {}),
    }


def _tool_runner(content: MeshFile, servers: Sequence[ServerDefinition]) -> dict[str, Any]:
    return {
        "runner": {"allow_unsigned": _unsigned(content)},
        "upstreams": {
            "connections": max(4, content.performance.connection_pool_size),
            "allow_networks": list(content.upstreams.allow_networks),
            "tenant_secrets": list(content.upstreams.tenant_secrets),
        },
        "storage": content.storage.for_runner(),
        "containers": {
            **msgspec.structs.asdict(content.containers),
            "tenant_networks": list(content.containers.tenant_networks),
        },
        "sandbox": _sandbox(content),
        **_redis(content),
        "mcp_servers": [_document(server) for server in servers],
    }


def _sandbox(content: MeshFile) -> dict[str, Any]:
    table = content.sandbox
    # Who tries a mesh on a laptop has put its servers there himself; the runner warns.
    default = "where_possible" if development(content) else "sandbox"
    chosen = msgspec.structs.replace(table, tenant_servers=table.tenant_servers or default)
    return {**msgspec.structs.asdict(chosen), "tenant_paths": list(chosen.tenant_paths)}


def _document(server: ServerDefinition) -> dict[str, Any]:
    """A server as a table of the file; generation and origin are the registry's business."""
    table = msgspec.to_builtins(server)
    table.pop("generation", None)
    table.pop("origin", None)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def _gateway(content: MeshFile, where: Where, http: int, tcp: int) -> dict[str, Any]:
    performance = content.performance
    verifier = content.integrations.marketeer
    tenant = DEMO_TENANT if development(content) else FIRST_TENANT
    rate = performance.rate_limit_per_second
    local = is_loopback(content.server.address)
    return {
        "http": {
            "host": content.server.address,
            "port": http,
            "cors_origins": list(content.security.cors_origins),
        },
        "tcp": {"host": content.tcp.host or content.server.address, "port": tcp},
        "security": {"development": development(content)},
        "keys": {"kek_file": where.kek_file},
        "limits": {
            "rate_per_second": rate,
            "burst": max(1, round(rate)),
            "connections": performance.max_connections,
            # Behind loopback every caller has the same address.
            **({"connections_per_source": performance.max_connections} if local else {}),
            # In development all callers are one principal.
            **({"principal_share": 1.0, "tenant_share": 1.0} if development(content) else {}),
            "call_timeout_s": performance.request_timeout_seconds,
        },
        "server": {"name": content.server.name, "instructions": content.server.description},
        "lists": {"tools": content.lists.tools},
        **({"verifier": verifier.for_gateway(where.verifier_key_file)} if verifier.on else {}),
        **({"synadia": content.synadia.for_gateway(tenant)} if content.synadia.expose else {}),
        "metrics": {"enabled": content.metrics.enabled, "path": content.metrics.path},
    }
