"""``mesh.toml``: the one file a user of ``mesh up`` writes, and the environment beside it.

Names come from earlier systems (compatibility contract, sections 5 and 7), so their files keep
working. What such a file may hold and this version does not use yet is accepted where ignoring
it is harmless and said on the status screen; where a user would rely on it the start is refused.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.containers import ContainersTable
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.tasks import policy_problem
from mcp_proto.contracts.virtuals import VirtualServer
from mcp_proto.discovery import DiscoveryTable
from mcp_proto.endpoints import metrics_path_problem
from mcp_proto.ids import is_server_name, is_tenant_id
from mcp_proto.names import RESERVED_SERVERS
from mcp_proto.sandboxes import SandboxTable, sandbox_table_problem
from mcp_proto.server_definitions import prefix_problem
from mcp_proto.server_types import server_problem
from mcp_proto.subjects import PLATFORM
from mcp_proto.virtual_servers import virtual_problem
from mesh_chassis.config import ConfigError, load
from mesh_cli.failure import Exit, Failure
from mesh_cli.tables.agents import AgentsHereTable
from mesh_cli.tables.around import around_problems
from mesh_cli.tables.integrations import IntegrationsTable
from mesh_cli.tables.leafnodes import LeafnodesTable
from mesh_cli.tables.lists import ListsTable
from mesh_cli.tables.machines import (
    ImageTable,
    Machines,
    ProcessTable,
    ProgramTable,
    QemuTable,
    VmTable,
)
from mesh_cli.tables.storage import VARIABLES as STORAGE_VARIABLES
from mesh_cli.tables.storage import StorageTable
from mesh_cli.tables.swarm import VARIABLES as SWARM_VARIABLES
from mesh_cli.tables.swarm import SwarmTable
from mesh_cli.tables.synadia import SynadiaTable

__all__ = [
    "DEFAULT_FILE",
    "SAMPLE_SERVER",
    "TOKEN_VARIABLE",
    "MeshFile",
    "Problem",
    "UserFile",
    "overrides",
    "problems",
    "read",
]

DEFAULT_FILE = "mesh.toml"
SAMPLE_SERVER = "time"
"""Server that runs when the user named none, so that a first call has something to call."""

RESERVED = frozenset({*RESERVED_SERVERS, "kv", "artifacts", "events", "echo"})
"""Names of what every mesh has itself."""

LOOPBACK = "127.0.0.1"
"""Where a mesh listens that was not told otherwise."""

TOKEN_VARIABLE = "MCP_AUTH_TOKEN"  # noqa: S105 - the name of a variable
"""Sets ``security.auth_token``."""

_TOKEN = re.compile(r"[!-~]{16,1024}")
_OWN_KEY = re.compile(r"m[ks]_")

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0, le=1_000_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; unknown keys are refused."""


class ServerTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[server]``: the HTTP edge and who we say we are.

    Attributes:
        host: address of the HTTP edge; "" = 127.0.0.1, in containers 0.0.0.0.
        port: port of the first gateway; -1 = 3000 or the next free one, 0 = any free one.
        name: name shown to clients and in ``/health``.
        description: text shown to clients as instructions.
    """

    host: str = ""
    port: Annotated[int, Meta(ge=-1, le=65535)] = -1
    name: str = "mesh"
    description: str = ""

    @property
    def address(self) -> str:
        """Where the HTTP edge listens."""
        return self.host or LOOPBACK


class TcpTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tcp]``: the line edge. ``host`` "" = that of ``[server]``; ``port`` as there, or 9500."""

    host: str = ""
    port: Annotated[int, Meta(ge=-1, le=65535)] = -1


class SecurityTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[security]``.

    Attributes:
        auth_enabled: True = every caller needs a credential; development mode is then off.
        auth_token: the server's own bearer token, of the principal ``admin`` of the tenant
            ``default``; setting it counts as ``auth_enabled``.
        cors_origins: origins of web pages that may call; ``*`` is refused with credentials.
    """

    auth_enabled: bool = False
    auth_token: str = ""
    cors_origins: tuple[str, ...] = ()


class MetricsTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``: Prometheus metrics on the HTTP edge.

    Attributes:
        enabled: False = the path answers 404.
        path: where they are.
    """

    enabled: bool = True
    path: str = "/metrics"


class PerformanceTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[performance]``.

    Attributes:
        max_connections: connections one gateway serves at once.
        request_timeout_seconds: budget of a call whose caller names none.
        rate_limit_per_second: requests per second of one connection.
        connection_pool_size: connections of one runner to one HTTP upstream server.
    """

    max_connections: Count = 1000
    request_timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 30.0
    rate_limit_per_second: Positive = 100.0
    connection_pool_size: Count = 100


class UpstreamsTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[upstreams]``: servers over the network; given to every runner.

    Attributes:
        allow_networks: private addresses, networks and names that any server may be at.
        tenant_secrets: patterns of secret references that tenants' own servers may use.
    """

    allow_networks: tuple[str, ...] = ()
    tenant_secrets: tuple[str, ...] = ()


class LogTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``: ``level`` debug, info, warning or error."""

    level: Annotated[str, Meta(pattern=r"\A(?i:debug|info|warning|error)\Z")] = "info"


class FirecrackerTable(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[firecracker]``: accepted while it is off; not available in this version.

    Attributes:
        enabled: True is refused.
        socket_path: not used.
        vm_id_prefix: not used.
    """

    enabled: bool = False
    socket_path: str = ""
    vm_id_prefix: str = ""


class MeshFile(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. The last table belongs to a later version (see the module)."""

    server: ServerTable = ServerTable()
    tcp: TcpTable = TcpTable()
    security: SecurityTable = SecurityTable()
    metrics: MetricsTable = MetricsTable()
    performance: PerformanceTable = PerformanceTable()
    log: LogTable = LogTable()
    upstreams: UpstreamsTable = UpstreamsTable()
    containers: ContainersTable = ContainersTable()
    sandbox: SandboxTable = SandboxTable()
    storage: StorageTable = StorageTable()
    lists: ListsTable = ListsTable()
    leafnodes: LeafnodesTable = LeafnodesTable()
    mcp_servers: tuple[ServerDefinition, ...] = ()
    virtual_servers: tuple[VirtualServer, ...] = ()
    agents: AgentsHereTable = AgentsHereTable()
    swarm: SwarmTable = SwarmTable()
    discovery: DiscoveryTable = DiscoveryTable()
    integrations: IntegrationsTable = IntegrationsTable()
    synadia: SynadiaTable = SynadiaTable()
    firecracker: FirecrackerTable = FirecrackerTable()
    vm: VmTable = VmTable()
    qemu: QemuTable = QemuTable()
    process: ProcessTable = ProcessTable()
    programs: tuple[ProgramTable, ...] = ()
    images: tuple[ImageTable, ...] = ()

    @property
    def machines(self) -> Machines:
        """Everything that a spawner of machines is told."""
        return Machines(
            vm=self.vm,
            qemu=self.qemu,
            process=self.process,
            programs=self.programs,
            images=self.images,
            vm_id_prefix=self.firecracker.vm_id_prefix,
        )


class UserFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file as read: its ``path`` ("" = none), its content, and what is not used of it."""

    path: str
    content: MeshFile
    unused: tuple[str, ...] = ()


_ENVIRONMENT: dict[str, tuple[str, type]] = {
    "MCP_SERVER_NAME": ("server.name", str),
    "MCP_SERVER_PORT": ("server.port", int),
    "MCP_HOST": ("server.host", str),
    "MCP_TCP_PORT": ("tcp.port", int),
    TOKEN_VARIABLE: ("security.auth_token", str),
    "MCP_LOG_LEVEL": ("log.level", str),
    **{name: (key, str) for name, key in STORAGE_VARIABLES.items()},
    **SWARM_VARIABLES,
}


def read(path: str | None, env: Mapping[str, str], *, folder: Path | None = None) -> UserFile:
    """Read ``mesh.toml`` with the environment laid over it.

    Args:
        path: file named by the user; None = ``mesh.toml`` in ``folder`` when there is one.
        env: environment (``MCP_SERVER_PORT`` and the like win over the file).
        folder: default the working directory.

    Raises:
        Failure: with exit code 78; names file, key and, for a misspelt one, the closest known.
    """
    chosen = Path(path) if path is not None else (folder or Path.cwd()) / DEFAULT_FILE
    found = path is not None or chosen.is_file()
    try:
        content = load(MeshFile, chosen if found else None, env, overrides(env))
    except ConfigError as error:
        raise _bad(str(error)) from None
    content = msgspec.structs.replace(
        content, agents=content.agents.below(chosen.absolute().parent)
    )
    source = str(chosen) if found else "environment"
    for problem in problems(content):
        raise _bad(f"{source}: {problem.key}: {problem.text}")
    return UserFile(
        path=str(chosen.absolute()) if found else "", content=content, unused=_unused(content)
    )


def _bad(text: str) -> Failure:
    return Failure(text, mend="correct the file and start again", code=Exit.CONFIG)


def overrides(env: Mapping[str, str]) -> dict[str, object]:
    """Keys that variables of the environment set, over the file.

    Raises:
        Failure: one of them is no number.
    """
    found: dict[str, object] = {}
    for name, (key, kind) in _ENVIRONMENT.items():
        text = env.get(name)
        if not text:
            continue
        try:
            found[key] = kind(text)
        except ValueError:
            raise _bad(f"environment variable {name}: {text!r} is not a number") from None
    return found


class Problem(msgspec.Struct, frozen=True):
    """What is wrong at a key of the file; ``text`` never shows a secret."""

    key: str
    text: str

    @classmethod
    def of(cls, words: str) -> "Problem":
        """From ``key: text``."""
        key, _, text = words.partition(": ")
        return cls(key, text)


def problems(content: MeshFile) -> Iterator[Problem]:
    """Everything that keeps a mesh from starting with a file whose shape is right."""
    yield from _server_problems(content.mcp_servers)
    yield from _virtual_problems(content.virtual_servers)
    problem = content.storage.problem() or content.leafnodes.problem() or content.agents.problem()
    problem = problem or sandbox_table_problem(content.sandbox)
    if problem is not None:
        yield Problem.of(problem)
    yield from _token_problems(content.security.auth_token)
    if "*" in content.security.cors_origins:
        yield Problem("security.cors_origins", "name each origin; * is not allowed")
    problem = metrics_path_problem(content.metrics.path)
    if problem is not None:
        yield Problem("metrics.path", problem)
    problem = content.synadia.problem("t")  # whichever tenant it will be, its name is valid
    if problem is not None:
        yield Problem.of(problem)
    problem = content.integrations.marketeer.problem()
    if problem is not None:
        yield Problem.of(f"integrations.marketeer.{problem}")
    names = RESERVED | {one.name for one in content.mcp_servers}
    for words in around_problems(
        content.agents, content.discovery, content.integrations.dragonfly, names
    ):
        yield Problem.of(words)
    if content.firecracker.enabled:
        yield Problem("firecracker.enabled", "not available in this version")


def _server_problems(servers: tuple[ServerDefinition, ...]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, server in enumerate(servers):
        key = f"mcp_servers[{index}]"
        if not is_server_name(server.name):
            yield Problem(
                f"{key}.name",
                f"{server.name!r} cannot be a server name: letters, digits, '_', '.' "
                "and '-', at most 40, no '__'",
            )
        elif server.name in seen:
            yield Problem(f"{key}.name", f"{server.name!r} is used twice")
        elif server.name in RESERVED:
            yield Problem(f"{key}.name", f"{server.name!r} is the name of something built in")
        seen.add(server.name)
        problem = server_problem(server) or prefix_problem(server)
        if problem is not None:
            yield Problem(key, problem)
        problem = policy_problem(server.task, server.task_tools)
        if problem is not None:
            yield Problem(f"{key}.task", problem)
        if server.concurrency < 1 or server.timeout_s <= 0:
            yield Problem(key, "concurrency and timeout_s must be positive")
        if server.tenant != PLATFORM and not is_tenant_id(server.tenant):
            yield Problem(f"{key}.tenant", f"{server.tenant!r} is no tenant")


def _virtual_problems(virtuals: tuple[VirtualServer, ...]) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for index, virtual in enumerate(virtuals):
        key = f"virtual_servers[{index}]"
        problem = virtual_problem(virtual)
        if problem is not None:
            yield Problem.of(f"{key}.{problem}")
        elif (virtual.tenant, virtual.name) in seen:
            yield Problem(f"{key}.name", f"{virtual.name!r} is used twice")
        seen.add((virtual.tenant, virtual.name))


def _token_problems(token: str) -> Iterator[Problem]:
    """The token itself is never shown."""
    key = f"security.auth_token (or {TOKEN_VARIABLE})"
    if token and _TOKEN.fullmatch(token) is None:
        yield Problem(key, "a token has 16 to 1024 visible ASCII characters")
    if _OWN_KEY.match(token):
        # A client's shell may export it; as the server's token it would outlive its revocation.
        yield Problem(key, "holds a key that a mesh made; unset it, or choose a token of your own")


def _unused(content: MeshFile) -> tuple[str, ...]:
    names = ["[firecracker]"] if content.firecracker != FirecrackerTable() else []
    verifier = content.integrations.marketeer
    if verifier.enabled and not verifier.on:
        names.append("[integrations.marketeer] (verify_all_requests is off)")
    return tuple(names)
