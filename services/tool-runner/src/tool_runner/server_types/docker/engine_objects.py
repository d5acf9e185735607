"""What an engine says of containers and images, as far as it is read here.

Field names are the Engine API's. Everything has a default: engines of other ages and makes leave
things out.
"""

import msgspec

__all__ = [
    "RawContainer",
    "RawImage",
    "RawImageRow",
    "RawRow",
    "RawState",
    "RawStats",
]

F = msgspec.field


class _Raw(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Of an engine."""


class RawPort(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """A port of a container in a list."""

    private_port: int = 0
    public_port: int = 0
    type: str = ""
    ip: str = F(name="IP", default="")


class RawRow(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """A container in ``/containers/json``."""

    id: str = ""
    names: tuple[str, ...] | None = ()
    image: str = ""
    command: str | None = ""
    created: int = 0
    state: str = ""
    status: str = ""
    ports: tuple[RawPort, ...] | None = ()
    labels: dict[str, str] | None = {}


class RawHealth(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """Outcome of a container's health check."""

    status: str = ""


class RawState(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """State of a container."""

    status: str = ""
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    oom_killed: bool = F(name="OOMKilled", default=False)
    health: RawHealth | None = None


class RawConfig(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """What a container or image runs."""

    image: str = ""
    user: str = ""
    tty: bool = False
    env: tuple[str, ...] | None = ()
    cmd: tuple[str, ...] | None = ()
    entrypoint: tuple[str, ...] | None = ()
    working_dir: str = ""
    labels: dict[str, str] | None = {}
    exposed_ports: dict[str, object] | None = {}


class RawRestart(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """When a container is started again."""

    name: str = ""


class RawHost(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """Limits of a container."""

    memory: int = 0
    nano_cpus: int = 0
    pids_limit: int | None = None
    restart_policy: RawRestart = RawRestart()


class RawBinding(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """Where a port of a container is on its host."""

    host_ip: str = ""
    host_port: str = ""


class RawNetwork(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """A container in a network."""

    ip_address: str = F(name="IPAddress", default="")


class RawNetworks(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """All its networks and ports."""

    ports: dict[str, tuple[RawBinding, ...] | None] | None = {}
    networks: dict[str, RawNetwork] | None = {}


class RawMount(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """A mount of a container."""

    type: str = ""
    name: str = ""
    source: str = ""
    destination: str = ""
    writable: bool = F(name="RW", default=False)


class RawContainer(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """A container, inspected."""

    id: str = ""
    name: str = ""
    created: str = ""
    image: str = ""
    path: str = ""
    args: tuple[str, ...] | None = ()
    restart_count: int = 0
    state: RawState = RawState()
    config: RawConfig = RawConfig()
    host_config: RawHost = RawHost()
    network_settings: RawNetworks = RawNetworks()
    mounts: tuple[RawMount, ...] | None = ()


class RawImageRow(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """An image in ``/images/json``."""

    id: str = ""
    repo_tags: tuple[str, ...] | None = ()
    created: int = 0
    size: int = 0
    labels: dict[str, str] | None = {}


class RawImage(_Raw, frozen=True, kw_only=True, rename="pascal"):
    """An image, inspected."""

    id: str = ""
    repo_tags: tuple[str, ...] | None = ()
    repo_digests: tuple[str, ...] | None = ()
    created: str = ""
    architecture: str = ""
    os: str = ""
    size: int = 0
    config: RawConfig | None = None


class RawUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time used, in nanoseconds."""

    total_usage: int = 0
    percpu_usage: tuple[int, ...] | None = ()


class RawCpu(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time of a container and of its host."""

    cpu_usage: RawUsage = RawUsage()
    system_cpu_usage: int = 0
    online_cpus: int = 0


class RawMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of a container, in bytes."""

    usage: int = 0
    limit: int = 0
    stats: dict[str, int] | None = {}


class RawPids(msgspec.Struct, frozen=True, kw_only=True):
    """Processes and threads."""

    current: int | None = 0


class RawTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes through one network interface."""

    rx_bytes: int = 0
    tx_bytes: int = 0


class RawStats(msgspec.Struct, frozen=True, kw_only=True):
    """``/containers/{id}/stats``."""

    cpu_stats: RawCpu = RawCpu()
    precpu_stats: RawCpu = RawCpu()
    memory_stats: RawMemory = RawMemory()
    pids_stats: RawPids = RawPids()
    networks: dict[str, RawTraffic] | None = {}
