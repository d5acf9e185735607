"""Arguments and results of the ``docker`` tools, and the way from what the engine says to them.

Values of environment variables are never given: that is where people keep passwords.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from tool_runner.core.instants import INSTANT_HELP, rfc3339
from tool_runner.server_types.docker.engine_objects import (
    RawContainer,
    RawImage,
    RawImageRow,
    RawRow,
    RawStats,
)
from tool_runner.server_types.log_lines import LogLine

__all__ = [
    "Changed",
    "Container",
    "ContainerList",
    "ContainerRef",
    "Image",
    "ImageList",
    "ImageRef",
    "ListContainers",
    "ListImages",
    "Logs",
    "ReadLogs",
    "Stats",
    "Stop",
    "container_of",
    "container_row",
    "image_of",
    "image_row",
    "name_of",
    "stats_of",
]

ROWS_MAX = 1000
TAIL_MAX = 5000
STOP_MAX_S = 300

Reference = Annotated[
    str,
    Meta(
        pattern=r"^/?[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$",
        description="Name, id or the beginning of an id of a container.",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=ROWS_MAX, description="At most so many; the newest first.")]


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments."""


class ListContainers(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_containers``."""

    all: Annotated[bool, Meta(description="Also those that do not run.")] = False
    name: Annotated[
        str, Meta(max_length=256, description="Only names that hold this text; empty: all.")
    ] = ""
    label: Annotated[
        str, Meta(max_length=512, description="Only with this label: key or key=value.")
    ] = ""
    limit: Limit = 100


class ContainerRef(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of tools about one container."""

    container: Reference


class ReadLogs(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``logs``."""

    container: Reference
    tail: Annotated[int, Meta(ge=1, le=TAIL_MAX, description="Newest lines, at most so many.")] = (
        100
    )
    since: Annotated[
        str | float, Meta(description=f"Only lines from then on: {INSTANT_HELP}. Empty: all.")
    ] = ""
    stdout: Annotated[bool, Meta(description="Lines of the standard output.")] = True
    stderr: Annotated[bool, Meta(description="Lines of the standard error.")] = True


class Stop(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``stop`` and ``restart``."""

    container: Reference
    timeout: Annotated[
        int,
        Meta(ge=0, le=STOP_MAX_S, description="Seconds it may take to end before it is killed."),
    ] = 10


class ListImages(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_images``."""

    all: Annotated[bool, Meta(description="Also intermediate layers.")] = False
    limit: Limit = 100


class ImageRef(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``inspect_image``."""

    image: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
            r"(/[A-Za-z0-9][A-Za-z0-9_.-]*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$",
            max_length=512,
            description="Name with or without tag or digest, or an id.",
        ),
    ]


class _Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a result."""


class ContainerRow(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A container in short."""

    id: str
    name: str
    image: str
    command: str
    created: str
    state: Annotated[str, Meta(description="created, running, paused, exited, dead, …")]
    status: Annotated[str, Meta(description="The same for people: Up 3 hours.")]
    ports: Annotated[tuple[str, ...], Meta(description="0.0.0.0:8080->80/tcp, or 80/tcp.")] = ()
    labels: dict[str, str] = {}


class ContainerList(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_containers``."""

    containers: tuple[ContainerRow, ...]
    more: Annotated[int, Meta(description="Further ones, beyond limit.")] = 0


class State(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """State of a container."""

    status: str
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    oom_killed: bool = False
    health: Annotated[str, Meta(description="Of its health check; absent: it has none.")] = ""


class Mount(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A mount of a container."""

    type: str
    source: str
    destination: str
    read_only: bool = False


class Container(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``inspect``."""

    id: str
    name: str
    image: str
    image_id: str
    created: str
    state: State
    command: tuple[str, ...]
    restart_count: int = 0
    restart_policy: str = ""
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    env_names: Annotated[
        tuple[str, ...], Meta(description="Names of its variables; values are not shown.")
    ] = ()
    ports: tuple[str, ...] = ()
    networks: Annotated[dict[str, str], Meta(description="Its address by network.")] = {}
    mounts: tuple[Mount, ...] = ()
    labels: dict[str, str] = {}
    memory_limit_bytes: int = 0
    cpus: float = 0.0
    pids_limit: int = 0


class Logs(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``logs``."""

    container: str
    lines: tuple[LogLine, ...]
    truncated: Annotated[bool, Meta(description="Older or longer text was left out.")] = False


class Changed(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``start``, ``stop`` and ``restart``."""

    id: str
    name: str
    changed: Annotated[bool, Meta(description="False: it was so already.")]
    state: str


class Stats(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``stats``: one look, about a second long."""

    container: str
    cpu_percent: Annotated[float, Meta(description="100 = one whole processor.")]
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


class ImageRow(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image in short."""

    id: str
    tags: tuple[str, ...]
    created: str
    size_bytes: int


class ImageList(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_images``."""

    images: tuple[ImageRow, ...]
    more: Annotated[int, Meta(description="Further ones, beyond limit.")] = 0


class Image(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``inspect_image``."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    created: str
    architecture: str
    os: str
    size_bytes: int
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    env_names: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: dict[str, str] = {}


def container_row(raw: RawRow) -> ContainerRow:
    """A row of the list."""
    ports = tuple(
        f"{port.ip}:{port.public_port}->{port.private_port}/{port.type}"
        if port.public_port
        else f"{port.private_port}/{port.type}"
        for port in raw.ports or ()
    )
    return ContainerRow(
        id=raw.id,
        name=name_of(raw.names),
        image=raw.image,
        command=raw.command or "",
        created=rfc3339(raw.created),
        state=raw.state,
        status=raw.status,
        ports=ports,
        labels=raw.labels or {},
    )


def name_of(names: tuple[str, ...] | None) -> str:
    """Name of a container: the one that is no link of another container's."""
    plain = [name[1:] for name in names or () if name.startswith("/") and "/" not in name[1:]]
    return plain[0] if plain else ""


def container_of(raw: RawContainer) -> Container:
    """A container in full."""
    state, host, config = raw.state, raw.host_config, raw.config
    return Container(
        id=raw.id,
        name=raw.name.lstrip("/"),
        image=config.image,
        image_id=raw.image,
        created=raw.created,
        state=State(
            status=state.status,
            exit_code=state.exit_code,
            error=state.error,
            started_at=_moment(state.started_at),
            finished_at=_moment(state.finished_at),
            oom_killed=state.oom_killed,
            health=state.health.status if state.health else "",
        ),
        command=(raw.path, *(raw.args or ())),
        restart_count=raw.restart_count,
        restart_policy=host.restart_policy.name,
        working_dir=config.working_dir,
        user=config.user,
        tty=config.tty,
        env_names=_env_names(config.env),
        ports=_bound_ports(raw),
        networks={
            name: one.ip_address for name, one in (raw.network_settings.networks or {}).items()
        },
        mounts=tuple(
            Mount(
                type=one.type,
                source=one.name or one.source,
                destination=one.destination,
                read_only=not one.writable,
            )
            for one in raw.mounts or ()
        ),
        labels=config.labels or {},
        memory_limit_bytes=host.memory,
        cpus=host.nano_cpus / 1e9,
        pids_limit=max(0, host.pids_limit or 0),
    )


def _bound_ports(raw: RawContainer) -> tuple[str, ...]:
    ports: list[str] = []
    for port, bindings in (raw.network_settings.ports or {}).items():
        bound = [f"{one.host_ip}:{one.host_port}->{port}" for one in bindings or ()]
        ports += bound or [port]
    return tuple(ports)


def _moment(text: str) -> str:
    """Engines write the year 1 for never."""
    return "" if text.startswith("0001-") else text


def _env_names(env: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(one.partition("=")[0] for one in env or ())


def image_row(raw: RawImageRow) -> ImageRow:
    """A row of the list."""
    return ImageRow(
        id=raw.id, tags=raw.repo_tags or (), created=rfc3339(raw.created), size_bytes=raw.size
    )


def image_of(raw: RawImage) -> Image:
    """An image in full."""
    config = raw.config
    told = Image(
        id=raw.id,
        tags=raw.repo_tags or (),
        digests=raw.repo_digests or (),
        created=raw.created,
        architecture=raw.architecture,
        os=raw.os,
        size_bytes=raw.size,
    )
    if config is None:
        return told
    return msgspec.structs.replace(
        told,
        command=config.cmd or (),
        entrypoint=config.entrypoint or (),
        working_dir=config.working_dir,
        user=config.user,
        env_names=_env_names(config.env),
        exposed_ports=tuple(config.exposed_ports or {}),
        labels=config.labels or {},
    )


def stats_of(container: str, raw: RawStats) -> Stats:
    """Use of the machine, computed as ``docker stats`` does."""
    cpu, before = raw.cpu_stats, raw.precpu_stats
    used = cpu.cpu_usage.total_usage - before.cpu_usage.total_usage
    passed = cpu.system_cpu_usage - before.system_cpu_usage
    processors = cpu.online_cpus or len(cpu.cpu_usage.percpu_usage or ()) or 1
    cached = (raw.memory_stats.stats or {}).get(
        "total_inactive_file", (raw.memory_stats.stats or {}).get("inactive_file", 0)
    )
    networks = (raw.networks or {}).values()
    return Stats(
        container=container,
        cpu_percent=round(100.0 * processors * used / passed, 2) if passed > 0 < used else 0.0,
        memory_bytes=max(0, raw.memory_stats.usage - cached),
        memory_limit_bytes=raw.memory_stats.limit,
        pids=raw.pids_stats.current or 0,
        received_bytes=sum(one.rx_bytes for one in networks),
        sent_bytes=sum(one.tx_bytes for one in networks),
    )
