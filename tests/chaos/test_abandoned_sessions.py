"""A thousand clients that go without a word leave nothing: no process, subscription or memory."""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from tests.chaos.crowds import (
    descriptors,
    free_port,
    metric,
    metrics,
    resident_mb,
    stored,
    subscriptions,
    told_to,
)
from tests.conftest import run
from tests.e2e.peer import Peer
from tests.e2e.running_mesh import RunningMesh

CROWD = Path(__file__).parent / "servers" / "crowd.py"
CLIENTS = 1_000
ASKED = 80
"""Of them in mid-question; a runner parks a hundred calls of one tenant."""
AT_ONCE = 32
IDLE_S = 10
INPUT_S = 10
PARKED_S = 12
GONE_S = 45.0
FIRST_GROWTH_MB = 50.0
"""What a first crowd may leave: the allocator's holes, tables that have grown, modules loaded."""
GROWTH_MB = 10.0
"""What every further one may."""
CONFIG = f"""
[performance]
max_connections = 3000
rate_limit_per_second = 100000

[[mcp_servers]]
name = "crowd"
command = "{sys.executable}"
args = ["{CROWD}", "5", "NOTES"]
"""


@pytest.fixture(scope="module")
def mesh_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A gateway and a runner that forget soon, and whose counts can be read."""
    room = tmp_path_factory.mktemp("crowd") / "room"
    env = {
        "MESH_LIMITS_SESSION_IDLE_S": str(IDLE_S),
        "MESH_LIMITS_INPUT_S": str(INPUT_S),
        "MESH_PARKING_TTL_S": str(PARKED_S),
    }
    config = CONFIG.replace("NOTES", str(room / "notes"))
    yield from run(RunningMesh(room, config=config, env=env))


class Held(msgspec.Struct, frozen=True):
    """What is held on behalf of clients, by whom."""

    children: int
    subscriptions: dict[str, int]
    sessions: float
    stored: int
    watched: float
    questions: float
    parked: float
    tasks: float
    descriptors: dict[str, int]
    memory_mb: dict[str, float]


class Scales:
    """Reads what is held."""

    def __init__(self, mesh: RunningMesh, operator: Client, runner: str, broker: str) -> None:
        self._mesh = mesh
        self._operator = operator
        self._runner = runner
        self._broker = broker

    async def read(self) -> Held:
        """Now."""
        mesh = self._mesh
        gateway, runner = await metrics(mesh.http), await metrics(self._runner)
        pids = {name: pid for name, pid in mesh.pids.items() if name != "nats-server"}
        return Held(
            children=len(mesh.children_of("runner-1")),
            subscriptions=await subscriptions(self._broker),
            sessions=metric(gateway, "mesh_sessions"),
            stored=await stored(self._operator, "mesh_sessions"),
            watched=metric(gateway, "mesh_watched_resources"),
            questions=metric(gateway, "mesh_open_questions"),
            parked=metric(runner, "mesh_runner_parked_calls"),
            tasks=metric(gateway, "mesh_tasks") + metric(runner, "mesh_tasks"),
            descriptors={name: descriptors(pid) for name, pid in pids.items()},
            memory_mb={name: resident_mb(pid) for name, pid in pids.items()},
        )

    async def until_empty(self, before: Held, limit_s: float) -> Held:
        """Wait until nothing is held that was not before."""
        until = time.monotonic() + limit_s
        while True:
            now = await self.read()
            left = _left(before, now)
            if not left:
                return now
            assert time.monotonic() < until, f"still there: {left}"
            await asyncio.sleep(0.2)


def _left(before: Held, now: Held) -> dict[str, Any]:
    left: dict[str, Any] = {
        name: (getattr(before, name), getattr(now, name))
        for name in ("children", "sessions", "stored", "watched", "tasks")
        if getattr(now, name) > getattr(before, name)
    }
    left |= {name: getattr(now, name) for name in ("questions", "parked") if getattr(now, name)}
    for name, count in now.subscriptions.items():
        if count > before.subscriptions.get(name, 0):
            left[f"subscriptions of {name}"] = (before.subscriptions.get(name), count)
    for name, count in now.descriptors.items():
        if count > before.descriptors[name] + 2:
            left[name] = (before.descriptors[name], count)
    return left


@pytest.fixture
async def scales(mesh_pair: RunningMesh, operator: Client) -> Scales:
    """Counts of the broker and of the runner, switched on in their configuration."""
    broker, runner = free_port(), free_port()
    if "runner-1" not in ASKABLE:
        told_to(mesh_pair, "nats-server", f'http: "127.0.0.1:{broker}"')
        told_to(mesh_pair, "runner-1", f"[ops]\nport = {runner}")
        for name in ("nats-server", "runner-1"):
            await asyncio.to_thread(mesh_pair.await_restart, name, mesh_pair.kill(name))
        ASKABLE.update({"runner-1": runner, "nats-server": broker})
    made = Scales(
        mesh_pair,
        operator,
        *(f"http://127.0.0.1:{ASKABLE[name]}" for name in ("runner-1", "nats-server")),
    )
    await warm(mesh_pair)
    return made


ASKABLE: dict[str, int] = {}


async def warm(mesh: RunningMesh) -> None:
    """One client of each kind that ends in order, once the server is served."""
    until = time.monotonic() + 15
    while True:
        peer = await Peer.connect(mesh.http)
        try:
            await abandoned_legacy(peer, 0)
        except (AssertionError, OSError, EOFError, KeyError):
            assert time.monotonic() < until
            await asyncio.sleep(0.1)
        else:
            return
        finally:
            peer.vanish(reset=False)


async def abandoned_legacy(peer: Peer, number: int) -> None:
    """A session with a subscription and an open stream; some wait with a question instead."""
    await peer.initialize(elicitation={})
    uri = {"uri": f"crowd:{number % 4}"}
    watched = await peer.post({"id": 1, "method": "resources/subscribe", "params": uri})
    assert watched.json.get("result") == {}, watched
    if number > CLIENTS - ASKED:
        params = {"name": "crowd__ask", "arguments": {}}
        await peer.open("POST", {"id": 2, "method": "tools/call", "params": params})
        assert (await peer.next())["method"] == "elicitation/create"
    else:
        await peer.open("GET")


async def abandoned_modern(peer: Peer, number: int) -> None:
    """A listen that hears of lists and of a resource."""
    told = await peer.listen(toolsListChanged=True, resourceSubscriptions=[f"crowd:{number % 4}"])
    assert told["method"] == "notifications/subscriptions/acknowledged"


async def crowd(base: str, begin: Any) -> list[Peer]:
    """A thousand clients that have begun."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Peer:
        async with slots:
            peer = await Peer.connect(base)
            await begin(peer, number)
            return peer

    return await asyncio.gather(*(one(number) for number in range(1, CLIENTS + 1)))


async def wave(mesh: RunningMesh, scales: Scales, begin: Any, before: Held) -> Held:
    """A thousand come, and go without a word; returns what is held when all is forgotten."""
    peers = await crowd(mesh.http, begin)
    try:
        during = await scales.read()
        assert during.watched == 4
        assert during.descriptors["gateway-1"] >= before.descriptors["gateway-1"] + CLIENTS
        if begin is abandoned_legacy:
            assert during.questions == during.parked == ASKED
    finally:
        for number, peer in enumerate(peers):
            peer.vanish(reset=number % 2 == 0)
    gone = time.monotonic()
    after = await scales.until_empty(before, GONE_S)
    print(f"nothing left after {time.monotonic() - gone:.1f} s")
    return after


def check_memory(before: Held, after: Held, bound_mb: float) -> None:
    for name, memory in after.memory_mb.items():
        grown = memory - before.memory_mb[name]
        print(f"{name}: {before.memory_mb[name]:.0f} MB before, {memory:.0f} MB after")
        assert grown < bound_mb, f"{name} keeps {grown:.0f} MB"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("begin", [abandoned_legacy, abandoned_modern])
async def test_thousand_abandoned_clients_leave_nothing_behind(
    mesh_pair: RunningMesh, scales: Scales, begin: Any
) -> None:
    pids = mesh_pair.pids
    before = await scales.until_empty(await scales.read(), GONE_S)
    first = await wave(mesh_pair, scales, begin, before)
    check_memory(before, first, FIRST_GROWTH_MB)
    second = await wave(mesh_pair, scales, begin, before)
    check_memory(first, second, GROWTH_MB)
    notes = (mesh_pair.room / "notes").read_text().splitlines()
    asked = [note.removeprefix("asks ") for note in notes if note.startswith("asks ")]
    heard = [note.split()[1] for note in notes if note.startswith("heard ")]
    assert len(asked) >= ASKED
    assert sorted(heard) == sorted(asked), "every question has its end"
    assert mesh_pair.pids == pids
