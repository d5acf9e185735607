"""Checks of a running mesh: broker, keys, services, upstream servers, clocks."""

import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import InstanceRecord
from mcp_proto.limits import CLOCK_LEEWAY_S
from mcp_proto.subjects import PLATFORM
from mesh_cli import jetstream
from mesh_cli.commands.micro import discover
from mesh_cli.connection import Connection, connected
from mesh_cli.doctor.files import read_service, read_text, service_files
from mesh_cli.doctor.finding import Finding
from mesh_cli.failure import Exit, Failure
from mesh_cli.last_words import last_words
from mesh_cli.options import Target
from mesh_cli.platform import operator_bus
from mesh_cli.state import RunRecord, StateDir
from mesh_cli.upstreams import LEFT_OUT, ServerRow, server_rows

__all__ = [
    "check_broker",
    "check_clocks",
    "check_seeds",
    "check_services",
    "check_upstreams",
]

_USER_INFO = "$SYS.REQ.USER.INFO"
_PROBE_S = 2.0


class _Server(msgspec.Struct, frozen=True):
    time: str


class _UserInfo(msgspec.Struct, frozen=True):
    server: _Server


async def check_broker(target: Target) -> Finding | None:
    """Whether the broker answers and takes the operator's key."""
    try:
        async with connected(target):
            return None
    except Failure as failure:
        if failure.code is Exit.REFUSED:
            return Finding(
                check="wrong-key",
                what=failure.what,
                why="no command can look into this mesh, and calls over NATS fail",
                mend=failure.mend,
            )
        return Finding(
            check="broker",
            what=failure.what,
            why="nothing of the mesh works without its broker",
            mend="mesh up starts one; if it runs, see mesh logs nats-server",
        )


async def check_seeds(state: StateDir, target: Target) -> list[Finding]:
    """Whether the broker takes the key of every service, by connecting with it."""
    findings: list[Finding] = []
    seeds = [(path.stem, read_service(path).bus.nkey_seed_file) for path in service_files(state)]
    for name, seed in seeds:
        if not read_text(Path(seed)):
            continue
        try:
            async with connected(Target(urls=target.urls, nkey=seed)):
                pass
        except Failure as failure:
            if failure.code is Exit.REFUSED:
                findings.append(
                    Finding(
                        check="wrong-key",
                        what=f"the broker refuses the key of {name} ({seed})",
                        why=f"{name} cannot connect; what it serves is gone",
                        mend="restart mesh up: it tells the broker the keys in the files",
                    )
                )
    return findings


async def check_services(client: Connection, state: StateDir, record: RunRecord) -> list[Finding]:
    """Whether every process that should run answers discovery."""
    answers = await discover(client, "PING")
    alive = {answer.id for answer, _, _ in answers} | {
        answer.metadata.get("instance", "") for answer, _, _ in answers if answer.metadata
    }
    findings: list[Finding] = []
    for point in record.endpoints:
        if point.service == "nats-server" or point.instance in alive:
            continue
        words = last_words(state.log(point.instance))
        findings.append(
            Finding(
                check="service",
                what=f"{point.instance} does not answer on the bus",
                why=f"it is down, hung or starting again; its last words: {words}",
                mend=f"mesh logs {point.instance}",
            )
        )
    return findings


async def check_upstreams(target: Target, state: StateDir) -> list[Finding]:
    """MCP servers that are configured and do not run, with the last thing they said."""
    try:
        async with operator_bus(target) as bus:
            rows = await server_rows(bus)
        known = {row.server for row in rows}
        unknown = sorted(_configured(state) - known)
        return [
            *(_dead(row) for row in rows if not row.serves),
            *(_crowded(row) for row in rows if row.hidden),
            *(_unknown(one) for one in unknown),
        ]
    except Failure as failure:
        return [
            Finding(
                check="registry",
                what=f"the registry does not list servers: {failure.what}",
                why="servers cannot be added, and lists of tools may be old",
                mend="mesh logs registry-1",
            )
        ]


def _dead(row: ServerRow) -> Finding:
    if row.state == LEFT_OUT:
        return Finding(
            check="discovery",
            what=f"agent {row.server}, found in {row.defined}, is left out: {row.reason}",
            why="nobody can call it here",
            mend="give one of the two another name, or correct what is announced",
        )
    owner = "" if row.tenant == PLATFORM else f" --tenant {row.tenant}"
    return Finding(
        check="upstream",
        what=f"MCP server {row.server} does not serve ({row.state}): {row.words}",
        why="its tools stay listed if they were known, and calls to them fail",
        mend=f"try its command by hand; then mesh server restart {row.server}{owner}",
    )


def _crowded(row: ServerRow) -> Finding:
    return Finding(
        check="names",
        what=f"MCP server {row.server}, mounted without a prefix: {len(row.hidden)} tools hidden",
        why=f"other servers have their names: {', '.join(row.hidden[:5])}",
        mend=f"give it its prefix again, or use /mcp/u/{row.server} or a virtual server",
    )


def _unknown(name: str) -> Finding:
    return Finding(
        check="upstream",
        what=f"MCP server {name} does not serve: no runner knows it",
        why="its file names it, but no runner that lives has read that file",
        mend="restart mesh up; if it stays so, see mesh logs runner-1",
    )


async def check_clocks(client: Connection) -> list[Finding]:
    """Clocks of this host, the broker and every service, against the leeway of deadlines."""
    findings: list[Finding] = []
    before = time.time()
    message = await client.request(_USER_INFO, b"", timeout=2)
    middle = (before + time.time()) / 2
    broker_at = _unix(msgspec.json.decode(message.data, type=_UserInfo).server.time)
    skew = broker_at - middle
    if abs(skew) > CLOCK_LEEWAY_S:
        findings.append(_skewed("this host", skew))
    async for name, offset_s in _service_clocks(client):
        if abs(offset_s) > CLOCK_LEEWAY_S:
            findings.append(_skewed(name, offset_s))
    return findings


def _skewed(name: str, broker_ahead_s: float) -> Finding:
    direction = "behind" if broker_ahead_s > 0 else "ahead of"
    return Finding(
        check="clock",
        what=f"the clock of {name} is {abs(broker_ahead_s):.1f} s {direction} the broker's",
        why=f"calls carry deadlines; more than {CLOCK_LEEWAY_S:.0f} s apart they end early or late",
        mend="run a time service (chrony, systemd-timesyncd) on every machine",
    )


async def _service_clocks(client: Connection) -> AsyncIterator[tuple[str, float]]:
    """Instance and how far the broker's clock is ahead of its own, from its heartbeat."""
    stream = "KV_mesh_instances"
    try:
        info = await jetstream.stream_info(
            client, stream, _PROBE_S, subjects="$KV.mesh_instances.>"
        )
    except Failure:
        return
    for subject in sorted(info.state.subjects or {}):
        found = await jetstream.last_of(client, stream, subject, _PROBE_S)
        if found is None or jetstream.is_marker(found.headers):
            continue
        try:
            record = msgspec.json.decode(found.data, type=InstanceRecord)
        except msgspec.DecodeError:
            continue
        if record.now_ms:
            ahead_s = _unix(found.time) - record.now_ms / 1000
            yield f"{record.instance} on {record.node or 'this host'}", ahead_s


def _unix(text: str) -> float:
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00").timestamp()


def _configured(state: StateDir) -> set[str]:
    """Names of the servers in the runners' files."""
    return {
        server.name
        for path in service_files(state)
        for server in read_service(path).mcp_servers
        if server.enabled
    }
