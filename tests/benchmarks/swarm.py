"""Swarms: durable steps, one step, takeovers, a lost agent, and a thousand steps in flight.

Everything goes through the TCP edge of a mesh as ``mesh up`` starts it, with two coordinators and
the broker's synced writes; agents are live processes whose function does nothing.
"""

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import Row
from tests.benchmarks.cluster import Mesh, mesh_up, resident_mb
from tests.benchmarks.load import quantile

__all__ = ["CASES", "HELD", "KILLED", "LOST", "STEP", "STEPS", "STOPPED", "measure"]

STEPS = "swarm: durable no-op steps, 20 agents"
STEP = "swarm: one durable step"
HELD = "swarm: 1,000 steps in flight"
KILLED = "swarm: takeover after kill -9 of its owner"
STOPPED = "swarm: takeover after its owner is told to stop"
LOST = "swarm: loss of agents whose host stands still"
CASES = (STEPS, STEP, HELD, KILLED, STOPPED, LOST)

AGENTS = 20
FANOUT = 5_000
SINGLE = 400
WITHIN_S = 60.0
_LINE_BYTES = 16 * 1024 * 1024
_CONFIG = """
[swarm]
coordinators = 2

[[agents.functions]]
name = "noop"
call = "swarm_functions:noop"
path = "{path}"
slots = 8

[[agents.functions]]
name = "hold"
call = "swarm_functions:hold"
path = "{path}"
slots = 50
"""


class Caller:
    """Calls tools over one TCP connection, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._last = reader, writer, 0

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """What a tool answers; ``RuntimeError`` for any failure."""
        self._last += 1
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self._last, "method": "tools/call", "params": params}
        self._writer.write(json.dumps(message).encode() + b"\n")
        async with asyncio.timeout(WITHIN_S):
            answer = json.loads(await self._reader.readline())
        if "error" in answer or answer["result"].get("isError"):
            raise RuntimeError(f"{tool}: {answer}")
        found: dict[str, Any] = answer["result"]["structuredContent"]
        return found


async def measure(room: Path, only: str = "") -> list[Row]:
    """Start such a mesh, measure the cases whose name contains ``only``, stop it."""
    path = Path(__file__).parent
    rows: list[Row] = []
    with mesh_up(room, _CONFIG.format(path=path)) as mesh:
        async with _caller(mesh) as caller:
            noop = await _swarm(caller, "noop")
            if only in STEPS:
                rows.append(await _steps(caller, noop))
            if only in STEP:
                rows.append(await _single(caller, noop))
            if only in HELD:
                rows.append(await _held(caller, mesh))
            if only in STOPPED:
                rows.append(await _takeover(caller, mesh, noop, STOPPED, signal.SIGTERM))
            if only in KILLED:
                rows.append(await _takeover(caller, mesh, noop, KILLED, signal.SIGKILL))
            if only in LOST:
                rows.append(await _lost(caller, mesh, noop))
    return rows


@asynccontextmanager
async def _caller(mesh: Mesh) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.tcp_port, limit=_LINE_BYTES)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


async def _swarm(caller: Caller, agents: str) -> str:
    made = await caller.call("swarm_init", topology="mesh", maxAgents=AGENTS)
    for _ in range(AGENTS):
        await caller.call("agent_spawn", swarmId=made["swarmId"], agentType=agents, wait=True)
    swarm: str = made["swarmId"]
    return swarm


def _fanned(steps: int) -> dict[str, object]:
    phase = {"name": "steps", "fanout": {"items": list(range(steps))}}
    return {
        "description": "steps",
        "parallelism": AGENTS,
        "strategy": "parallel",
        "timeout": 300,
        "phases": [phase],
    }


async def _steps(caller: Caller, swarm: str) -> Row:
    """Steps per second from the submission to the end of the whole task."""
    rates: list[float] = []
    for turn in range(4):
        began = time.perf_counter()
        done = await caller.call("task_orchestrate", swarmId=swarm, task=_fanned(FANOUT), wait=True)
        took = time.perf_counter() - began
        told = await caller.call("task_status", taskId=done["taskId"])
        if told["status"] != "completed" or told["progress"]["done"] != FANOUT:
            raise RuntimeError(f"not every step was done: {told['status']} {told['progress']}")
        if turn:
            rates.append(FANOUT / took)
    rate = statistics.median(rates)
    return Row(STEPS, rate, FANOUT / rate * 1e3, FANOUT / min(rates) * 1e3, {}, {})


async def _single(caller: Caller, swarm: str) -> Row:
    """A task of one step, from the call to its answer."""
    agents = (await caller.call("swarm_status", swarmId=swarm))["agents"]
    took: list[float] = []
    for number in range(SINGLE):
        agent = agents[number % len(agents)]["id"]
        began = time.perf_counter()
        await caller.call("agent_task", swarmId=swarm, agentId=agent, task="nothing", wait=True)
        took.append(time.perf_counter() - began)
    return _row(STEP, took[20:])


async def _held(caller: Caller, mesh: Mesh) -> Row:
    """Memory of the owner while every slot of twenty agents is taken."""
    swarm = await _swarm(caller, "hold")
    await caller.call("task_orchestrate", swarmId=swarm, task=_fanned(1_000))
    began = time.perf_counter()
    status = await caller.call("swarm_status", swarmId=swarm)
    while status["metrics"]["inFlight"] < 1_000:
        if time.perf_counter() - began > WITHIN_S:
            raise RuntimeError(f"never 1,000 in flight: {status['metrics']}")
        status = await caller.call("swarm_status", swarmId=swarm)
    took = [time.perf_counter() - began]
    row = _row(HELD, took)
    row.memory_mb = {"owner": resident_mb(mesh.pids[status["owner"]])}
    await caller.call("swarm_destroy", swarmId=swarm, force=True)
    return row


async def _takeover(
    caller: Caller, mesh: Mesh, swarm: str, name: str, number: signal.Signals
) -> Row:
    """From the signal until the swarm answers as that of another process.

    That may be a new one of the same name: ``mesh up`` starts what was killed anew.
    """
    took: list[float] = []
    for _ in range(1):
        owner = (await caller.call("swarm_status", swarmId=swarm))["owner"]
        signalled = _pid(mesh, owner)
        began = time.perf_counter()
        os.kill(signalled, number)
        while time.perf_counter() - began < WITHIN_S:
            try:
                found = (await caller.call("swarm_status", swarmId=swarm))["owner"]
                if found != owner or _pid(mesh, owner) != signalled:
                    break
            except RuntimeError:
                pass
            await asyncio.sleep(0.01)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(5.0)  # the one that was ended is started again
    return _row(name, took)


async def _lost(caller: Caller, mesh: Mesh, swarm: str) -> Row:
    """From the moment a host stands still until its agents are lost."""
    host = mesh.pids["agent-host-1"]
    began = time.perf_counter()
    os.kill(host, signal.SIGSTOP)
    try:
        while time.perf_counter() - began < WITHIN_S:
            agents = (await caller.call("swarm_status", swarmId=swarm))["agents"]
            if all(agent["status"] == "lost" for agent in agents):
                break
            await asyncio.sleep(0.05)
        return _row(LOST, [time.perf_counter() - began])
    finally:
        os.kill(host, signal.SIGCONT)


def _pid(mesh: Mesh, instance: str) -> int:
    """Of a process that ``mesh up`` may have started anew."""
    record = json.loads((Path(mesh.operator_seed).parents[1] / "run.json").read_text())
    pids = {point["instance"]: point["pid"] for point in record["endpoints"]}
    pid: int = pids[instance]
    return pid


def _row(name: str, took: list[float]) -> Row:
    return Row(
        name=name,
        rate=1 / statistics.mean(took),
        p50_ms=quantile(took, 0.5) * 1e3,
        p99_ms=quantile(took, 0.99) * 1e3,
        cpu_us={},
        memory_mb={},
    )
