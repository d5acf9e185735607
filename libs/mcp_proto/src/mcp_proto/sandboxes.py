"""How servers that are processes are kept apart: what a definition and an operator may say.

One rule for ``mesh.toml``, the registry and runners. What bubblewrap is told is made of it in
``mesh_chassis.sandbox``.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "ISOLATIONS",
    "SandboxOptions",
    "SandboxTable",
    "is_plain_path",
    "path_problem",
    "sandbox_options_problem",
    "sandbox_table_problem",
]

ISOLATIONS = ("none", "sandbox", "container", "vm")
"""Walls around a server's process, from the thinnest to the thickest."""

NETWORKS = ("none", "host")
PATHS_MAX = 64
NAMES_MAX = 64
MEMORY_MB_MIN = 6
MEMORY_MB_MAX = 1024 * 1024
PIDS_MIN = 4
PIDS_MAX = 100_000
CPUS_MAX = 1024
FILES_MIN = 16
FILES_MAX = 1024 * 1024
SIZE_MB_MAX = 1024 * 1024

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OWN = ("MESH_", "NATS_", "MCP_AUTH")
"""Variables of the mesh itself, which hold credentials."""
_WHOLE = frozenset(
    ("/", "/boot", "/etc", "/home", "/root", "/run", "/tmp", "/var", "/var/lib", "/var/run")  # noqa: S108
)
"""Configuration, everybody's homes, sockets of daemons: given by mistake rather than on purpose."""
_SOCKETS = frozenset(("/run/docker.sock", "/var/run/docker.sock"))
_MADE = ("/proc", "/sys", "/dev")


class SandboxOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What one server may in its sandbox. Where nothing is said it has nothing.

    Attributes:
        read_only: absolute paths that it can read, beside its own program.
        read_write: absolute paths that it can write.
        environment: variables of the runner that it gets, beside ``env`` of the definition.
        network: ``none`` = nothing but its own loopback; ``host`` = that of the runner's machine,
            with everything that listens there.
        memory_mb: most memory in MiB, ``/tmp`` included; 0 = as ``[sandbox]`` says. The same
            holds for what follows; a tenant's own server may have less than that, not more.
        cpus: processors.
        pids: processes and threads.
        files: open descriptors of each process.
        file_mb: largest file it can write.
        tmp_mb: size of ``/tmp``, and of ``/dev/shm``.
    """

    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    network: str = "none"
    memory_mb: int = 0
    cpus: float = 0.0
    pids: int = 0
    files: int = 0
    file_mb: int = 0
    tmp_mb: int = 0


class SandboxTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[sandbox]`` of ``mesh.toml`` and of a runner: servers in sandboxes.

    Attributes:
        tenant_servers: programs of tenants' own servers, added at run time, that name no
            isolation: ``sandbox`` = they run in one or not at all; ``where_possible`` = without
            one where the host has none, with a warning; ``none`` = as the runner's own; "" =
            ``sandbox``, in the development mode of ``mesh up`` ``where_possible``.
        tenant_paths: folders of the runner's machine whose programs and files tenants' own
            servers may use; the system's and the runner's own Python are there anyway.
        tenant_network: whether tenants' own servers may have ``network = "host"``.
        uid: real user and group of sandboxed programs, where the runner is root.
        memory_mb: of a server whose definition says nothing; the most for tenants' own servers.
            The same holds for what follows.
        cpus: processors.
        pids: processes and threads, two of the sandbox itself included.
        files: open descriptors of each process.
        file_mb: largest file, in MiB.
        tmp_mb: size of ``/tmp``, and of ``/dev/shm``, in MiB.
    """

    tenant_servers: Literal["", "sandbox", "where_possible", "none"] = ""
    tenant_paths: tuple[str, ...] = ()
    tenant_network: bool = False
    uid: Annotated[int, Meta(ge=1, le=2**31)] = 65534
    memory_mb: Annotated[int, Meta(ge=MEMORY_MB_MIN, le=MEMORY_MB_MAX)] = 512
    cpus: Annotated[float, Meta(ge=0.01, le=CPUS_MAX)] = 2.0
    pids: Annotated[int, Meta(ge=PIDS_MIN, le=PIDS_MAX)] = 256
    files: Annotated[int, Meta(ge=FILES_MIN, le=FILES_MAX)] = 1024
    file_mb: Annotated[int, Meta(ge=1, le=SIZE_MB_MAX)] = 1024
    tmp_mb: Annotated[int, Meta(ge=1, le=SIZE_MB_MAX)] = 64


def is_plain_path(path: str) -> bool:
    """Whether a path is absolute and normal, so that what stands there is what is meant."""
    parts = path[1:].split("/")
    return (
        path.startswith("/")
        and path.isprintable()
        and len(path) < 4096
        and (path == "/" or not {"", ".", ".."} & set(parts))
    )


def path_problem(path: str) -> str | None:
    """Why a path of the host cannot be given to a sandbox, as public text; None when it can."""
    if not is_plain_path(path):
        return f"{path[:128]!r} is no absolute path without '..'"
    if path in _WHOLE:
        return f"{path} is too much to be given whole; name what is needed of it"
    if path in _SOCKETS:
        return f"{path} is root on this machine; no sandbox may see it"
    if any(path == one or path.startswith(f"{one}/") for one in _MADE):
        return f"{path} is made anew in every sandbox"
    return None


def sandbox_options_problem(options: SandboxOptions) -> str | None:
    """What is wrong with a server's wishes, as public text; None when nothing is."""
    if options.network not in NETWORKS:
        return "sandbox.network must be none or host"
    for field, paths in (("read_only", options.read_only), ("read_write", options.read_write)):
        problem = _paths_problem(f"sandbox.{field}", paths)
        if problem is not None:
            return problem
    if len(options.environment) > NAMES_MAX:
        return f"sandbox.environment has at most {NAMES_MAX} names"
    for name in options.environment:
        if _VARIABLE.fullmatch(name) is None:
            return f"sandbox.environment: {name[:64]!r} is no name of a variable"
        if name.upper().startswith(_OWN):
            return f"sandbox.environment: {name} belongs to the mesh itself"
    return _limits_problem(options)


def sandbox_table_problem(table: SandboxTable) -> str | None:
    """What is wrong with ``[sandbox]``, as ``key: text``; None when nothing is."""
    return _paths_problem("sandbox.tenant_paths", table.tenant_paths)


def _paths_problem(field: str, paths: tuple[str, ...]) -> str | None:
    if len(paths) > PATHS_MAX:
        return f"{field}: at most {PATHS_MAX} paths"
    for path in paths:
        problem = path_problem(path)
        if problem is not None:
            return f"{field}: {problem}"
    return None


def _limits_problem(options: SandboxOptions) -> str | None:
    for field, value, least, most in (
        ("memory_mb", options.memory_mb, MEMORY_MB_MIN, MEMORY_MB_MAX),
        ("cpus", options.cpus, 0.01, CPUS_MAX),
        ("pids", options.pids, PIDS_MIN, PIDS_MAX),
        ("files", options.files, FILES_MIN, FILES_MAX),
        ("file_mb", options.file_mb, 1, SIZE_MB_MAX),
        ("tmp_mb", options.tmp_mb, 1, SIZE_MB_MAX),
    ):
        if value and not least <= value <= most:
            return f"sandbox.{field} must be {least:g} to {most:g}, or 0 for that of [sandbox]"
    return None
