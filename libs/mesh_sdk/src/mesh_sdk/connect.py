"""How a program finds its mesh: broker, credential and tenant, from whatever is at hand.

The first that says something decides: a URL given in the code, the environment (``MESH_URL``,
``NATS_URL``), the state directory of a running ``mesh up`` (searched upward, as git does), the
selected context of the ``nats`` tool. Nothing here connects.
"""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import ConfigError
from mesh_chassis.link.addresses import is_link

__all__ = ["AGENT_SEATS", "Found", "Seat", "find", "state_directory", "take_seat"]

AGENT_SEATS = 16
"""Broker users ``agent-1..16`` that ``mesh up`` makes: programs that serve at once."""

_STATE = ".mesh"
_DEFAULT = "nats://127.0.0.1:4222"
_BROKER_SCHEMES = ("nats://", "tls://", "ws://", "wss://")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A mesh, as far as it is known.

    Attributes:
        url: what was found: ``nats://``, ``http(s)://`` or ``tcp://``.
        nats: broker; "" when only an edge is known.
        http: HTTP edge of a running ``mesh up``; "" = unknown.
        tcp: ``host:port`` of its line edge; "" = unknown.
        key: API key (``MESH_KEY``, ``MCP_AUTH_TOKEN`` or that of the state directory); "" = none.
        seed_file: file with the nkey seed of this program; "" = none named.
        creds_file: credentials file of the ``nats`` tool; "" = none.
        ca_file: certificate authorities for ``tls://``; "" = the system's.
        tenant: tenant; "" = not said.
        development: callers without a signed context are served.
        state: state directory; "" = none.
    """

    url: str
    nats: str = ""
    http: str = ""
    tcp: str = ""
    key: str = ""
    seed_file: str = ""
    creds_file: str = ""
    ca_file: str = ""
    tenant: str = ""
    development: bool = False
    state: str = ""


class _Endpoint(msgspec.Struct):
    http: str = ""
    tcp: str = ""


class _Run(msgspec.Struct):
    """``run.json`` of a state directory; ``mesh up`` writes it."""

    nats: str
    tenant: str = ""
    development: bool = False
    endpoints: tuple[_Endpoint, ...] = ()


class _NatsContext(msgspec.Struct):
    url: str = ""
    nkey: str = ""
    creds: str = ""
    ca: str = ""


def find(
    url: str = "", *, env: Mapping[str, str] | None = None, start: Path | None = None
) -> Found:
    """The mesh that a program means.

    Args:
        url: given in the code; "" = look for it.
        env: instead of ``os.environ``.
        start: where the search for a state directory begins; None = the working directory.

    Raises:
        ConfigError: ``MESH_NKEY_SEED`` names no file.
    """
    table = os.environ if env is None else env
    chosen = url or table.get("MESH_URL", "") or table.get("NATS_URL", "")
    state = state_directory(start or Path.cwd(), table)
    run = _read_run(state) if state is not None else None
    if state is None or run is None or (chosen and chosen not in _urls(run)):
        return _elsewhere(chosen, table)
    return Found(
        url=chosen or run.nats,
        nats=run.nats,
        http=next((one.http for one in run.endpoints if one.http), ""),
        tcp=next((one.tcp for one in run.endpoints if one.tcp), ""),
        key=_key(table) or _own_key(state, run),
        seed_file=_seed(table),
        creds_file=table.get("NATS_CREDS", ""),
        tenant=table.get("MESH_TENANT", "") or run.tenant or "default",
        development=run.development,
        state=str(state),
    )


def _elsewhere(chosen: str, table: Mapping[str, str]) -> Found:
    """A mesh of which nothing lies in a directory here."""
    context = _NatsContext() if chosen else _selected_context(table)
    url = chosen or context.url or _DEFAULT
    return Found(
        url=url,
        nats=url if url.startswith(_BROKER_SCHEMES) or is_link(url) else "",
        http=url if url.startswith(("http://", "https://")) else "",
        tcp=url.removeprefix("tcp://") if url.startswith("tcp://") else "",
        key=_key(table),
        seed_file=_seed(table) or context.nkey,
        creds_file=table.get("NATS_CREDS", "") or context.creds,
        ca_file=table.get("NATS_CA", "") or context.ca,
        tenant=table.get("MESH_TENANT", ""),
    )


def _urls(run: _Run) -> set[str]:
    named = {run.nats}
    for one in run.endpoints:
        named |= {one.http, f"{one.http}/mcp", f"tcp://{one.tcp}"}
    return named


def _key(table: Mapping[str, str]) -> str:
    return table.get("MESH_KEY", "") or table.get("MCP_AUTH_TOKEN", "")


def _seed(table: Mapping[str, str]) -> str:
    path = table.get("MESH_NKEY_SEED", "") or table.get("NATS_NKEY", "")
    if path and not Path(path).is_file():
        # Not repeated: it may be the seed itself.
        raise ConfigError(
            "environment variable MESH_NKEY_SEED", "", "names no file that holds the nkey seed"
        )
    return path


def _own_key(state: Path, run: _Run) -> str:
    """The credential of the directory's owner, where callers need one."""
    if run.development:
        return ""
    for name in ("static.token", "admin.key"):
        try:
            return (state / "keys" / name).read_text().strip()
        except OSError:
            continue
    return ""


def state_directory(start: Path, table: Mapping[str, str]) -> Path | None:
    """The state directory above ``start``, or that of ``MESH_STATE``; None = there is none."""
    named = table.get("MESH_STATE", "")
    if named:
        return Path(named) if Path(named).is_dir() else None
    for folder in (start, *start.parents):
        if (folder / _STATE / "run.json").is_file():
            return folder / _STATE
    return None


def _read_run(state: Path) -> _Run | None:
    try:
        return msgspec.json.decode((state / "run.json").read_bytes(), type=_Run)
    except (OSError, msgspec.DecodeError):
        return None


def _selected_context(table: Mapping[str, str]) -> _NatsContext:
    home = table.get("XDG_CONFIG_HOME") or str(Path(table.get("HOME", "~")) / ".config")
    folder = Path(home).expanduser() / "nats"
    try:
        name = table.get("NATS_CONTEXT") or (folder / "context.txt").read_text().strip()
        data = (folder / "context" / f"{name}.json").read_bytes()
        return msgspec.json.decode(data, type=_NatsContext)
    except (OSError, msgspec.DecodeError):
        return _NatsContext()


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """As whom a program is on the bus.

    Attributes:
        instance: unique among all processes of the mesh.
        bus: how to connect.
        lock: descriptor that keeps the seat until the process ends; -1 = none.
    """

    instance: str
    bus: BusConfig
    lock: int = -1


def take_seat(found: Found, *, instance: str = "", env: Mapping[str, str] | None = None) -> Seat:
    """The broker user under which an agent connects.

    With a seed of its own (``MESH_NKEY_SEED``) its instance id comes from ``MESH_INSTANCE``; at a
    local ``mesh up`` it takes a free one of the users made for agents and keeps it by a lock that
    the kernel gives back whatever ends the process.

    Raises:
        ConfigError: no user is named and none is free.
    """
    table = os.environ if env is None else env
    instance = instance or table.get("MESH_INSTANCE", "")
    if not found.nats:
        raise ConfigError("", "url", f"an agent connects to the broker, and {found.url} is none")
    if found.seed_file or found.creds_file or not found.state:
        if not instance:
            raise ConfigError(
                "", "instance", "required: the instance id that the agent's broker user is for; "
                "set it here or as MESH_INSTANCE",
            )  # fmt: skip
        bus = BusConfig(
            urls=(found.nats,),
            nkey_seed_file=found.seed_file,
            creds_file=found.creds_file,
            tls_ca_file=found.ca_file,
        )
        return Seat(instance=instance, bus=bus)
    names = (instance,) if instance else tuple(f"agent-{n}" for n in range(1, AGENT_SEATS + 1))
    for name in names:
        path = Path(found.state) / "keys" / f"{name}.nk"
        lock = _locked(path)
        if lock >= 0:
            bus = BusConfig(urls=(found.nats,), nkey_seed_file=str(path))
            return Seat(instance=name, bus=bus, lock=lock)
    raise ConfigError(
        "", "instance", f"all {AGENT_SEATS} agents of this mesh run already"
        if not instance
        else f"{instance} is no agent of this mesh, or runs already",
    )  # fmt: skip


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor
