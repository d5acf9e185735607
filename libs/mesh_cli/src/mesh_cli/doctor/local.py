"""Checks that need no running mesh: files, keys, ports, leftovers."""

import asyncio
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mcp_proto.names import SWARM_COORDINATOR
from mesh_chassis.broker_config import public_of
from mesh_cli import ports, user_file
from mesh_cli.bootstrap import KEK_FILE, PEPPER_FILE
from mesh_cli.config_check.checking import check
from mesh_cli.doctor.files import read_service, read_text, service_files
from mesh_cli.doctor.finding import Finding
from mesh_cli.doctor.listeners import who_listens
from mesh_cli.failure import Exit
from mesh_cli.plan import SERVICE_MODULES, users
from mesh_cli.state import RunRecord, StateDir

__all__ = [
    "check_configs",
    "check_disk",
    "check_keys",
    "check_leftovers",
    "check_ports",
    "check_user_file",
]

_FREE_MIN_BYTES = 512 * 1024 * 1024
_CHECK_CONFIG_S = 20.0


def check_user_file(path: str | None, env: Mapping[str, str]) -> Iterator[Finding]:
    """``mesh.toml`` and its environment: everything that ``mesh config check`` finds."""
    checked = check(path, env)
    for one in checked.found:
        # A file that mesh up takes may still name what is not there.
        starts = checked.user is not None
        yield Finding(
            check="config",
            what=str(one),
            why="what needs it does not run" if starts else "mesh up refuses to start with it",
            mend="correct the file, then mesh reload or start again",
        )


def check_leftovers(state: StateDir) -> Iterator[Finding]:
    """A pid file without its process, and processes without their ``mesh up``."""
    if state.holder():
        return
    try:
        stale = state.pid_file.read_text().strip()
    except OSError:
        stale = ""
    if stale:
        yield Finding(
            check="stale-pid",
            what=f"{state.pid_file} names pid {stale}, but no mesh up holds it",
            why="the last mesh up ended without a drain (killed, or the machine went down)",
            mend="start again with mesh up; it takes the file over",
        )
    record = state.read_run()
    for point in record.endpoints if record is not None else ():
        if str(state.root) in _command_line(point.pid):
            yield Finding(
                check="orphan",
                what=f"{point.instance} (pid {point.pid}) runs without its mesh up",
                why="it keeps its port and answers callers with an old configuration",
                mend=f"kill {point.pid}",
            )


def check_keys(state: StateDir) -> Iterator[Finding]:
    """Key files: there, readable by their owner only, known to the broker."""
    if not state.keys.is_dir():
        yield Finding(
            check="keys",
            what=f"{state.keys} is missing",
            why="nobody can connect to the broker",
            mend="mesh up makes it",
        )
        return
    broker = read_text(state.broker_config)
    members = _members(state)
    for path in (state.keys, *sorted(state.keys.iterdir())):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            want = "700" if path.is_dir() else "600"
            yield Finding(
                check="key-mode",
                what=f"{path} has mode {mode:o}",
                why="other users of this machine can read the key",
                mend=f"chmod {want} {path}",
            )
        # Keys of an earlier, larger mesh stay for the next one; nobody connects with them now.
        if path.suffix == ".nk" and path.stem in members:
            yield from _seed(path, broker)
    for path in (state.keys / KEK_FILE, state.keys / PEPPER_FILE):
        if not path.exists():
            yield Finding(
                check="keys",
                what=f"{path} is missing",
                why="gateways and tenant-auth cannot start; stored keys cannot be opened",
                mend="restore it from a backup; without one mesh up makes a new one and every "
                "API key must be created again",
            )
    for path in _seed_files_named(state):
        if not path.exists():
            yield Finding(
                check="keys",
                what=f"{path} is missing",
                why="its service cannot connect to the broker",
                mend="restart mesh up; it makes a new key and tells the broker",
            )


def _members(state: StateDir) -> set[str]:
    """Who connects to the broker of this mesh: its instances, its stdio edges, its people."""
    everywhere = {user.name for user in users(gateways=0, runners=0)}
    return everywhere | {path.stem for path in service_files(state)}


def _seed(path: Path, broker: str) -> Iterator[Finding]:
    try:
        public = public_of(path.read_text())
    except (OSError, ValueError) as error:
        yield Finding(
            check="wrong-key",
            what=f"{path} holds no usable key: {error}",
            why="its owner cannot connect to the broker",
            mend=f"remove {path} and restart mesh up",
        )
        return
    if broker and public not in broker:
        yield Finding(
            check="wrong-key",
            what=f"the key in {path} is not one the broker knows",
            why="the broker refuses its owner (authorization violation)",
            mend="restart mesh up, which writes the broker's configuration from the key files",
        )


def _seed_files_named(state: StateDir) -> list[Path]:
    """Seed files that service configurations point to."""
    named = [read_service(path).bus.nkey_seed_file for path in service_files(state)]
    return [Path(seed) for seed in named if seed]


def check_ports(user: user_file.MeshFile | None, record: RunRecord | None) -> Iterator[Finding]:
    """Ports that the next ``mesh up`` wants and somebody else has."""
    if record is not None:
        return
    content = user or user_file.MeshFile()
    wanted = (
        ("HTTP", content.server.address, content.server.port, ports.HTTP_PORT),
        ("TCP", content.tcp.host or content.server.address, content.tcp.port, ports.TCP_PORT),
        ("NATS", "127.0.0.1", ports.USUAL, ports.NATS_PORT),
    )
    for what, host, asked, usual in wanted:
        port = usual if asked == ports.USUAL else asked
        if port == ports.ANY or ports.is_free(host, port):
            continue
        holder = who_listens(port) or "another process"
        yield Finding(
            check="port",
            what=f"{what} port {port} of {host} is taken by {holder}",
            why="mesh up takes the next free port, and clients configured for this one reach the "
            "other program"
            if asked == ports.USUAL
            else "mesh up refuses to start, because the file asks for this port",
            mend=f"stop the other program, or choose a port with mesh up --{what.lower()}-port N",
        )


def check_disk(state: StateDir) -> Iterator[Finding]:
    """Room for stored state."""
    root = state.root if state.root.exists() else state.root.parent
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    if free < _FREE_MIN_BYTES:
        yield Finding(
            check="disk",
            what=f"{free // 1024**2} MiB are free on the volume of {root}",
            why="on a full volume stored state cannot be written until the broker restarts",
            mend="free some space",
        )


async def check_configs(state: StateDir) -> list[Finding]:
    """Ask every service whether it would start with its configuration file."""
    files = [
        (module, path)
        for service, module in SERVICE_MODULES.items()
        for path in service_files(state)
        if path.stem.rpartition("-")[0] == _instance_stem(service)
    ]
    results = await asyncio.gather(*(_check_config(module, path) for module, path in files))
    return [finding for finding in results if finding is not None]


def _instance_stem(service: str) -> str:
    return {"tool-runner": "runner", SWARM_COORDINATOR: "swarm"}.get(service, service)


async def _check_config(module: str, path: Path) -> Finding | None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, "--config", str(path), "--check-config"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CHECK_CONFIG_S):
            _, told = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    if process.returncode != Exit.CONFIG:
        return None
    rows = told.decode(errors="replace").strip().splitlines()
    return Finding(
        check="config",
        what=rows[-1] if rows else f"{path} is refused by {module}",
        why=f"{path.stem} does not start with it",
        mend="mesh up writes this file anew at every start; correct mesh.toml, not this file",
    )


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        return ""
