"""Many tools: how long a list of 500 takes, and until a change is known to who listens.

Twenty light stdio servers of 25 tools each, beside one that never answers and one that cannot
start. A list is measured with all its pages; a change from the call of the tool by which a server
makes it until the notification is there, and until the new list is.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from tests.benchmarks.cases import Row
from tests.benchmarks.cluster import Mesh, mesh_up, resident_mb
from tests.benchmarks.load import quantile
from tests.e2e.peer import Peer

__all__ = [
    "CASES",
    "CHANGE_CASES",
    "LISTED",
    "LIST_CASES",
    "Change",
    "changed",
    "config",
    "listed",
    "measure",
    "names",
    "served",
]

SERVERS = 20
TOOLS = 25
LISTED = SERVERS * TOOLS
ERAS = ("modern", "legacy")
LIST_CASES = tuple(f"tools/list of {LISTED} tools, {era}" for era in ERAS)
CHANGE_CASES = tuple(f"change of one server of {SERVERS} until listed, {era}" for era in ERAS)
CASES = LIST_CASES + CHANGE_CASES

LISTS = 40
CHANGES = 10
LATEST_S = 10.0
CROWD = Path(__file__).parents[1] / "chaos" / "servers" / "crowd.py"
_MUTE = "import time; time.sleep(1e6)"
_DEAD = "raise SystemExit(3)"


class Change(msgspec.Struct, frozen=True):
    """Seconds from a server's change until its listener was told, and had the new list."""

    told_s: float
    listed_s: float


def config() -> str:
    """Tables of a user file: the twenty, one that is mute and one that is dead."""
    server = '[[mcp_servers]]\nname = "{}"\ncommand = "{}"\nargs = {}\n'
    crowd = [
        server.format(f"s{n}", sys.executable, f'["{CROWD}", "{TOOLS}", "", "s{n}"]')
        for n in range(SERVERS)
    ]
    mute = server.format("mute", sys.executable, f'["-c", "{_MUTE}"]')
    dead = server.format("dead", sys.executable, f'["-c", "{_DEAD}"]')
    return "\n".join([*crowd, mute, dead])


async def opened(base: str, era: str) -> Peer:
    """A client of either era."""
    peer = await Peer.connect(base)
    if era == "legacy":
        await peer.initialize()
    return peer


async def names(peer: Peer) -> list[str]:
    """Names of all tools, page by page."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        result = await _asked(peer, "tools/list", cursor)
        found += [tool["name"] for tool in result["tools"]]
        if "nextCursor" not in result:
            return found
        cursor = {"cursor": result["nextCursor"]}


async def listed(base: str, era: str, times: int) -> list[float]:
    """Seconds of each of so many whole lists, on a connection of their own."""
    peer = await opened(base, era)
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        found = await names(peer)
        took.append(time.perf_counter() - began)
        assert len(found) >= LISTED, f"{len(found)} tools listed"
    peer.vanish(reset=False)
    return took


async def changed(base: str, era: str, server: str) -> Change:
    """Let a server list one more tool, and wait for the news on an open stream."""
    listener, reader, caller = [await opened(base, era) for _ in range(3)]
    if era == "legacy":
        await listener.open("GET")
    else:
        await listener.listen(toolsListChanged=True)
    before = set(await names(reader))
    began = time.perf_counter()
    params: dict[str, object] = {"name": f"{server}__grow", "arguments": {}}
    call = asyncio.ensure_future(_asked(caller, "tools/call", params))
    while (await listener.next())["method"] != "notifications/tools/list_changed":
        pass
    told_s = time.perf_counter() - began
    await _until_other(reader, before, began + LATEST_S)
    listed_s = time.perf_counter() - began
    await call
    for peer in (listener, reader, caller):
        peer.vanish(reset=False)
    return Change(told_s=told_s, listed_s=listed_s)


async def served(base: str, limit_s: float) -> None:
    """Wait until all twenty are listed."""
    until = time.monotonic() + limit_s
    while True:
        peer = await opened(base, "modern")
        found = await names(peer)
        peer.vanish(reset=False)
        if len(found) >= LISTED:
            return
        assert time.monotonic() < until, f"only {len(found)} tools are listed"
        await asyncio.sleep(0.1)


async def measure(room: Path, only: str = "") -> list[Row]:
    """Start such a mesh, measure the cases whose name contains ``only``, stop it."""
    with mesh_up(room, config()) as mesh:
        base = f"http://127.0.0.1:{mesh.http_port}"
        await served(base, 60)
        rows: list[Row] = []
        for era, case in zip(ERAS, LIST_CASES, strict=True):
            if only in case:
                await listed(base, era, 3)
                rows.append(_row(case, mesh, await listed(base, era, LISTS)))
        for era, case in zip(ERAS, CHANGE_CASES, strict=True):
            if only in case:
                changes = [await changed(base, era, f"s{n}") for n in range(CHANGES)]
                rows.append(_row(case, mesh, [one.listed_s for one in changes]))
        return rows


async def _asked(peer: Peer, method: str, params: dict[str, object]) -> Any:
    """The result of a request in the era of the client."""
    if peer.headers:
        answer = await peer.post({"id": 1, "method": method, "params": params})
    else:
        answer = await peer.modern(method, **params)
    assert "result" in answer.json, answer
    return answer.json["result"]


async def _until_other(reader: Peer, before: set[str], until: float) -> None:
    while time.perf_counter() < until:
        if set(await names(reader)) != before:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("a change was told, but is not listed")


def _row(name: str, mesh: Mesh, took: list[float]) -> Row:
    return Row(
        name=name,
        rate=1 / statistics.mean(took),
        p50_ms=quantile(took, 0.5) * 1e3,
        p99_ms=quantile(took, 0.99) * 1e3,
        cpu_us={},
        memory_mb={name: resident_mb(pid) for name, pid in mesh.pids.items()},
    )
