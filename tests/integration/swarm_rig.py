"""Replicas of the swarm coordinator on a real broker, and a small host that speaks its contract."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import (
    AgentBeat,
    AgentCommand,
    Beat,
    BeatAnswer,
    Bid,
    BidRequest,
    Commanded,
    Mail,
    Results,
    ResultsTaken,
    Spawn,
    Spawned,
    Work,
    WorkItem,
    WorkResult,
    WorkTaken,
)
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import MeshError
from mcp_proto.subjects import ANY, call
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.presence import Presence
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from swarm_coordinator.config import (
    LeaseSection,
    ReplicaSection,
    SwarmCoordinatorConfig,
    SwarmSection,
)
from swarm_coordinator.orchestrator.requests import directed
from swarm_coordinator.service import build

TENANT = "acme"
Work_ = Callable[[WorkItem], Awaitable[WorkResult | None]]
_encode = msgspec.json.encode


async def echo(item: WorkItem) -> WorkResult:
    """The payload comes back."""
    return result(item, item.payload)


def result(item: WorkItem, value: msgspec.Raw | object) -> WorkResult:
    body = value if isinstance(value, msgspec.Raw) else msgspec.Raw(_encode(value))
    return WorkResult(
        agent=item.agent, epoch=item.epoch, item=item.item, status="ok", structured=body
    )


class Agent:
    """One agent of the host; its work runs in this process."""

    def __init__(self, spawn: Spawn, slots: int) -> None:
        self.id = spawn.agent
        self.swarm = spawn.swarm
        self.epoch = spawn.epoch
        self.slots = slots
        self.items: dict[str, asyncio.Task[None]] = {}
        self.seen: list[str] = []


class ScriptedHost:
    """A host of agents: bids, spawns, works, beats; what it does with an item is a function."""

    def __init__(self, bus: Bus, *, tenant: str = TENANT, slots: int = 8) -> None:
        self.bus = bus
        self.name = bus.instance
        self.tenant = tenant
        self.slots = slots
        self.work: Work_ = echo
        self.agents: dict[str, Agent] = {}
        self.untaken: dict[str, WorkResult] = {}
        self.done: dict[str, WorkResult] = {}
        self.runs: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.stopped: list[str] = []
        self.mail: list[Mail] = []
        self.beat_s = 0.5
        self.beating = True
        self.replies: list[ResultsTaken] = []
        self._owner_epochs: dict[str, int] = {}
        self._tasks = Tasks(f"host {self.name}")
        self._wake = asyncio.Event()
        self._presence = Presence(bus, self._tasks, version="0.0.0")
        self._endpoints = [
            Endpoint(bus, subject=wire.bid_subject(), handler=self._on_bid, name="bid"),
            Endpoint(bus, subject=wire.spawn_subject(ANY, self.name), handler=self._on_spawn),
            Endpoint(bus, subject=wire.work_subject(ANY, self.name), handler=self._on_work),
            Endpoint(bus, subject=wire.command_subject(ANY, self.name), handler=self._on_command),
        ]

    async def start(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.start()
        await self._presence.start()
        self._tasks.spawn(self._beats(), name="beats")
        self._tasks.spawn(self._send_results(), name="results")

    async def stop(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.drain(0.0)
        await self._presence.stop()
        await self._tasks.close()

    async def die(self) -> None:
        """As a killed process: the broker loses it without a word."""
        await self._tasks.close(1.0)
        await self.bus.close()

    async def _on_bid(self, request: Call) -> bytes:
        ask = msgspec.json.decode(request.payload, type=BidRequest)
        if ask.agent_type == "unknown":
            bid = Bid(host=self.name, refused="no_runtime", types=("function",))
        else:
            free = 1.0 / (1 + len(self.agents))
            bid = Bid(host=self.name, bid=os.urandom(4).hex(), free=free, types=("function",))
        return _encode(bid)

    async def _on_spawn(self, request: Call) -> bytes:
        ask = msgspec.json.decode(request.payload, type=Spawn)
        self.agents[ask.agent] = Agent(ask, self.slots)
        self._tasks.spawn(self.beat_now(ask.swarm), name="beat")
        spawned = Spawned(
            runtime="function", capabilities=ask.capabilities, slots=self.slots, pid=os.getpid()
        )
        return _encode(spawned)

    async def _on_work(self, request: Call) -> bytes:
        ask = msgspec.json.decode(request.payload, type=Work)
        refused: dict[str, str] = {}
        if not self._believes(ask.swarm, ask.owner_epoch):
            return _encode(WorkTaken(refused={item.item: "stale_owner" for item in ask.items}))
        for item in ask.items:
            agent = self.agents.get(item.agent)
            if agent is None:
                refused[item.item] = "unknown_agent"
            elif agent.epoch > item.epoch:
                refused[item.item] = "epoch"
            elif item.item in self.done:
                self.untaken[item.item] = self.done[item.item]
                self._wake.set()
            elif item.item not in agent.items:
                agent.epoch = item.epoch
                agent.seen.append(item.item)
                agent.items[item.item] = self._tasks.spawn(self._do(agent, item), name="work")
        return _encode(WorkTaken(refused=refused))

    async def _do(self, agent: Agent, item: WorkItem) -> None:
        step = item.item.rpartition("-")[0]
        self.runs[step] = self.runs.get(step, 0) + 1
        try:
            made = await self.work(item)
            if made is not None:
                self.finish(made)
        finally:
            agent.items.pop(item.item, None)

    def finish(self, made: WorkResult) -> None:
        self.done[made.item] = made
        self.untaken[made.item] = made
        self._wake.set()

    async def _on_command(self, request: Call) -> bytes:
        ask = msgspec.json.decode(request.payload, type=AgentCommand)
        if not self._believes(ask.swarm, ask.owner_epoch):
            return _encode(Commanded())
        for item in ask.cancel:
            self.cancelled.append(item)
            for agent in self.agents.values():
                task = agent.items.get(item)
                if task is not None:
                    task.cancel()
        if ask.stop:
            self._end_agent(ask.agent)
            return _encode(Commanded(exited=0))
        known = not ask.agent or ask.agent in self.agents
        mail = ""
        if ask.mail is not None:
            self.mail.append(ask.mail)
            mail = "delivered"
        return _encode(Commanded(known=known, alive=known if ask.ping else None, mail=mail))

    def _end_agent(self, name: str) -> None:
        agent = self.agents.pop(name, None)
        self.stopped.append(name)
        if agent is not None:
            for task in agent.items.values():
                task.cancel()

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self.beat_s)
            if self.beating:
                for swarm in {agent.swarm for agent in self.agents.values()}:
                    await self.beat_now(swarm)

    async def beat_now(self, swarm: str) -> BeatAnswer | None:
        beats = tuple(
            AgentBeat(agent=agent.id, epoch=agent.epoch, state="active", items=tuple(agent.items))
            for agent in self.agents.values()
            if agent.swarm == swarm
        )
        if not self.beating:
            return None
        subject = wire.beat_subject(self.tenant, swarm, self.name)
        beat = Beat(boot=self.bus.boot, node="here", agents=beats)
        try:
            reply = await self.bus.request(subject, _encode(beat), timeout_s=2.0)
        except MeshError:
            return None
        if "Nats-Service-Error-Code" in reply.headers:
            return None
        answer = msgspec.json.decode(reply.payload, type=BeatAnswer)
        if not self._believes(swarm, answer.owner_epoch):
            return None  # an owner that was replaced, and woke
        for item in answer.cancel:
            for agent in self.agents.values():
                task = agent.items.get(item)
                if task is not None:
                    self.cancelled.append(item)
                    task.cancel()
        for name in answer.stop:
            self._end_agent(name)
        return answer

    async def _send_results(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.untaken:
                some = list(self.untaken.values())[:64]
                swarms = {self.swarm_of(one.agent) for one in some}
                for swarm in swarms - {""}:
                    mine = tuple(one for one in some if self.swarm_of(one.agent) == swarm)
                    await self.send(swarm, mine)
                for one in some:
                    if not self.swarm_of(one.agent):
                        self.untaken.pop(one.item, None)

    def _believes(self, swarm: str, owner_epoch: int) -> bool:
        known = self._owner_epochs.get(swarm, 0)
        self._owner_epochs[swarm] = max(known, owner_epoch)
        return owner_epoch >= known

    def swarm_of(self, agent: str) -> str:
        known = self.agents.get(agent)
        return "" if known is None else known.swarm

    async def send(self, swarm: str, results: tuple[WorkResult, ...]) -> ResultsTaken | None:
        subject = wire.result_subject(self.tenant, swarm, self.name)
        operation = directed(self.tenant, "result", subject, Results, ResultsTaken)
        try:
            taken = await self.bus.operation(operation, Results(results=results), timeout_s=2.0)
        except MeshError:
            await asyncio.sleep(0.1)
            return None
        self.replies.append(taken)
        if self._believes(swarm, taken.owner_epoch):
            for item in taken.taken:
                self.untaken.pop(item, None)
        return taken


class Caller:
    """Calls tools as a gateway does."""

    def __init__(self, bus: Bus, tenant: str = TENANT) -> None:
        self.bus = bus
        self.tenant = tenant

    async def whole(self, tool: str, timeout_s: float = 10.0, **arguments: object) -> dict:
        params = {"name": tool, "arguments": arguments}
        subject = call(self.tenant, "swarm", tool)
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        body = await self.bus.call(
            subject,
            _encode(request),
            envelope=RequestEnvelope(),
            timeout_s=timeout_s,
            tenant=self.tenant,
        )
        return msgspec.json.decode(body)

    async def tool(self, tool: str, timeout_s: float = 10.0, **arguments: object) -> dict:
        answer = await self.whole(tool, timeout_s, **arguments)
        assert "result" in answer, answer
        assert not answer["result"].get("isError"), answer["result"]
        return answer["result"]["structuredContent"]

    async def ended(self, task: str, timeout_s: float = 20.0) -> dict:
        """The status of a task once it has ended."""
        last: dict = {}

        async def over() -> bool:
            nonlocal last
            try:
                last = await self.tool("task_status", taskId=task)
            except (MeshError, AssertionError):
                return False
            return last["status"] in {"completed", "failed", "cancelled", "faulted"}

        await eventually(over, timeout_s=timeout_s, what=f"{task} ends")
        return last


def config_of(instance: str, **swarm: object) -> SwarmCoordinatorConfig:
    return SwarmCoordinatorConfig(
        service=ReplicaSection(instance=instance, drain_s=5.0),
        swarm=SwarmSection(allow_unsigned=True, **swarm),  # type: ignore[arg-type]
        lease=LeaseSection(probe_s=0.5),
    )


@asynccontextmanager
async def replica(
    connect_bus: Callable[..., Awaitable[Bus]], instance: str = "swarm-1", **swarm: object
) -> AsyncIterator[Service]:
    """A replica in this process; handed over in order at the end."""
    bus = await connect_bus("swarm-coordinator", instance)
    async with in_process(build, config_of(instance, **swarm), bus) as service:
        yield service


@asynccontextmanager
async def scripted_host(
    connect_bus: Callable[..., Awaitable[Bus]], instance: str = "agent-host-1", **options: object
) -> AsyncIterator[ScriptedHost]:
    bus = await connect_bus(wire.HOST, instance)
    host = ScriptedHost(bus, **options)  # type: ignore[arg-type]
    await host.start()
    try:
        yield host
    finally:
        if bus.connected:
            await host.stop()


class Process:
    """A replica as a process of its own, to be killed and frozen."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self.child = child
        self.log = log

    @property
    def ready(self) -> bool:
        return "is ready" in self.log.read_text()

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.child.send_signal(signal.SIGCONT)


@asynccontextmanager
async def process(
    broker: Broker, directory: Path, instance: str, *, lease_s: float = 0.0
) -> AsyncIterator[Process]:
    """A replica of its own process; killed at the end if it still runs."""
    config = directory / f"{instance}.toml"
    log = directory / f"{instance}.log"
    seed = broker.seed_for("swarm-coordinator", instance)
    config.write_text(
        f"""
[service]
instance = "{instance}"
accept_s = 0.0
[bus]
urls = ["{broker.url}"]
nkey_seed_file = "{seed}"
[swarm]
allow_unsigned = true
[lease]
ttl_s = {lease_s}
probe_s = 0.5
"""
    )
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "swarm_coordinator", "--config", str(config), stderr=out
        )
    running = Process(child, log)
    try:
        await eventually(lambda: running.ready, timeout_s=20, what=f"{instance} is ready")
        yield running
    finally:
        if child.returncode is None:
            running.wake()
            child.kill()
        await child.wait()
