"""Handlers on a swarm in memory: the real core decides and folds, hosts are played by the test."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec
import pytest

from mcp_proto.contracts.swarm import (
    AgentBeat,
    AgentCommand,
    Beat,
    Bid,
    Commanded,
    Mail,
    Spawned,
    StepError,
    WorkProgress,
    WorkResult,
)
from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core import decide
from swarm_coordinator.core.effects import Effect, effects_of
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.core.state import SwarmState, TaskState
from swarm_coordinator.core.turn import begin, take
from swarm_coordinator.handlers import catalog, dispatch
from swarm_coordinator.handlers.ports import Caller, Remembered, Reported, SwarmLimits
from swarm_coordinator.handlers.task_log import History, Reader
from swarm_coordinator.handlers.task_records import record_of, result_of

HOST = "host-1"
TYPES = ("tool", "function", "researcher", "reviewer", "tester", "coordinator", "validator")
CAPABILITIES = {"reviewer": ("lint", "python"), "researcher": ("search",)}
SLOW_TYPE = "slow"
START_MS = 1_790_000_000_000
Pairs: TypeAlias = list[tuple[str, str]]


class FakeMemory:
    """Values by swarm, namespace and key."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.values: dict[tuple[str, str, str], Remembered] = {}
        self._revisions = itertools.count(1)

    async def store(
        self, swarm: str, namespace: str, key: str, value: bytes,
        *, ttl_s: int | None, expected_revision: int | None,
    ) -> Remembered:  # fmt: skip
        place = (swarm, namespace, key)
        known = self.values.get(place)
        stands = 0 if known is None else known.revision
        if expected_revision is not None and expected_revision != stands:
            data = {"reason": "conflict", "revision": stands}
            raise MeshError(ErrorKind.PARAMS, "somebody else was faster", data=data)
        now_ms = self._now_ms()
        made = Remembered(
            value=msgspec.Raw(value),
            revision=next(self._revisions),
            updated_ms=now_ms,
            expires_ms=None if ttl_s is None else now_ms + ttl_s * 1000,
        )
        self.values[place] = made
        return made

    async def retrieve(self, swarm: str, namespace: str, key: str) -> Remembered | None:
        return self.values.get((swarm, namespace, key))

    async def delete(self, swarm: str, namespace: str, key: str) -> bool:
        return self.values.pop((swarm, namespace, key), None) is not None

    async def list(
        self, swarm: str, namespace: str, prefix: str, cursor: str, limit: int
    ) -> tuple[list[str], str]:
        keys = sorted(
            key for own, space, key in self.values
            if (own, space) == (swarm, namespace) and key.startswith(prefix) and key > cursor
        )  # fmt: skip
        return keys[:limit], keys[limit - 1] if len(keys) > limit else ""

    async def bank(self, swarm: str, limit: int) -> Pairs:
        found = sorted((space, key) for own, space, key in self.values if own == swarm)
        return found[:limit]

    async def forget(self, swarm: str) -> int:
        gone = [place for place in self.values if place[0] == swarm]
        for place in gone:
            del self.values[place]
        return len(gone)


class FakeOwner:
    """The owner of one swarm; implements ``ports.Owner`` without a broker."""

    def __init__(self, events: Sequence[Event], clock: "FakeClock") -> None:
        self._clock = clock
        self._state = begin(events)
        self.memory = FakeMemory(clock.now_ms)
        self.effects: list[Effect] = []
        self.commands: list[tuple[str, AgentCommand]] = []
        self.mails: list[tuple[str, Mail]] = []
        self.beats: dict[str, int] = {}
        self.reports: dict[str, Reported] = {}
        self.log: list[Event] = list(events)
        self.records: dict[str, TaskRecord] = {}
        self.grants: list[str] = []
        self.saved: dict[str, bytes] = {}
        self.reply: Commanded = Commanded(mail="delivered")
        self.release = asyncio.Event()
        self._spawning: set[asyncio.Task[Spawned]] = set()
        self._moved = asyncio.Event()

    @property
    def state(self) -> SwarmState:
        return self._state

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def new_id(self, prefix: str) -> str:
        return self._clock.new_id(prefix)

    async def commit(self, events: Sequence[Event]) -> None:
        self.fold(events)
        await asyncio.sleep(0)

    def fold(self, events: Sequence[Event]) -> None:
        taken = take(self._state, events, self.now_ms(), 7)
        self.log += taken
        self.effects += effects_of(self._state, taken)
        self._moved.set()
        self._moved = asyncio.Event()

    def begin_spawn(self, agent: str) -> "asyncio.Task[Spawned]":
        task = asyncio.get_running_loop().create_task(self.spawn(agent))
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        return task

    async def spawn(self, agent: str) -> Spawned:
        wanted = self._state.agents[agent]
        if wanted.type == SLOW_TYPE:
            await self.release.wait()
        elif wanted.type not in TYPES:
            refused = Spawned(refused="no_runtime", message=f"no host runs {wanted.type}")
            self.fold(
                decide.agent_refused(
                    self._state, agent, "no_runtime", refused.message, self.now_ms()
                )
            )
            return refused
        spawned = Spawned(
            runtime="function",
            capabilities=(*CAPABILITIES.get(wanted.type, ()), *wanted.capabilities),
            slots=2,
            pid=4242,
            spawn_ms=12.5,
            memory_bytes=20_000_000,
            limits_reason="this host has no cgroups",
        )
        self.fold(decide.agent_spawned(self._state, agent, HOST, spawned, self.now_ms()))
        self.beat(agent)
        return spawned

    def beat(self, *agents: str) -> None:
        """A beat of the host, with everything that its agents have."""
        said = tuple(
            AgentBeat(
                agent=one,
                epoch=self._state.agents[one].epoch,
                state="active",
                items=tuple(self._state.agents[one].items),
            )
            for one in agents
        )
        self.beats |= dict.fromkeys(agents, self.now_ms())
        self.fold(
            decide.beat(self._state, HOST, Beat(boot="b", node="n", agents=said), self.now_ms())
        )

    async def offers(self, *, local: bool) -> dict[str, tuple[str, ...]]:
        await asyncio.sleep(0)
        return {name: CAPABILITIES.get(name, ()) for name in TYPES}

    def last_beat_ms(self, agent: str) -> int | None:
        return self.beats.get(agent)

    def reported(self, item: str) -> Reported | None:
        return self.reports.get(item)

    def report(
        self, item: str, progress: float, total: float | None = None, text: str = ""
    ) -> None:
        """The agent of an attempt tells how far it is."""
        said = WorkProgress(
            agent=self.work()[item], item=item, progress=progress, total=total, message=text
        )
        self.reports[item] = Reported(self.now_ms(), said)

    async def history(self, task: str) -> History:
        await asyncio.sleep(0)
        reader = Reader(task)
        reader.take(self.log)
        return reader.history

    async def recorded(self, task: str) -> None:
        if task:
            self.records[task] = record_of(self._state, self._state.tasks[task])

    async def known(self, task: str) -> None:
        if task not in self.records:
            await self.recorded(task)

    async def task_record(self, principal: str, task: str) -> TaskRecord | None:
        found = self.records.get(task)
        return found if found is not None and found.principal == principal else None

    async def command(self, agent: str, command: AgentCommand, timeout_s: float) -> Commanded:
        await asyncio.sleep(0)
        self.commands.append((agent, command))
        return Commanded(exited=0 if command.stop else None)

    async def deliver(self, agent: str, mail: Mail, timeout_s: float) -> Commanded:
        await asyncio.sleep(0)
        self.mails.append((agent, mail))
        return self.reply

    async def delegate(self, caller: Caller, task: str, deadline_ms: int) -> str:
        await asyncio.sleep(0)
        self.grants.append(task)
        return f"grant-of-{task}"

    async def ended(self, task: str, timeout_s: float) -> TaskState:
        known = self._state.tasks[task]
        while not known.ended and timeout_s > 0:
            await self._moved.wait()
        return known

    async def save(self, value: bytes) -> str:
        self.saved[str(len(self.saved))] = value
        return str(len(self.saved) - 1)

    async def load(self, reference: str) -> bytes:
        return self.saved[reference]

    # What the test plays

    def work(self) -> dict[str, str]:
        """Item → agent, of every attempt that is on its way."""
        return {
            run.item: run.agent
            for task in self._state.tasks.values()
            for step in task.steps.values()
            for run in step.runs
        }

    async def working(self) -> None:
        """Wait for an attempt that is on its way."""
        await self.changed(lambda: bool(self.work()))

    async def changed(self, holds: Callable[[], bool]) -> None:
        """Wait until the state is as it is wanted."""
        while not holds():
            await self._moved.wait()

    def finish(self, item: str, value: object = None, *, error: str = "") -> None:
        """The agent of an attempt is done with it."""
        agent = self.work()[item]
        failed = StepError(type="exit", message=error, retryable=False) if error else None
        result = WorkResult(
            agent=agent,
            epoch=self._state.agents[agent].epoch,
            item=item,
            status="error" if error else "ok",
            structured=msgspec.Raw(msgspec.json.encode(value)),
            error=failed,
        )
        self.fold(decide.results(self._state, HOST, (result,), self.now_ms(), 7))

    def finish_all(self, value: object = None) -> int:
        """Every attempt succeeds, and those that follow; how many."""
        done = 0
        while work := self.work():
            for item in work:
                if item in self.work():
                    self.finish(item, value)
                    done += 1
        return done

    def forget(self, task: str) -> None:
        """What the owner does an hour after the end: only the record is left."""
        known = self._state.tasks[task]
        record = record_of(self._state, known)
        result = result_of(self._state, known)
        if result:
            record = msgspec.structs.replace(record, result=msgspec.Raw(result))
        self.records[task] = record
        del self._state.tasks[task]


class FakeClock:
    """Time that the test moves, and ids; deadlines are real."""

    def __init__(self) -> None:
        self._now_ms = START_MS
        self._ids = itertools.count(1)

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return time.monotonic()

    def advance(self, span_s: float) -> None:
        self._now_ms += int(span_s * 1000)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._now_ms:013d}_{next(self._ids):025d}"


class FakeSwarms:
    """All swarms; implements ``ports.Swarms``."""

    instance = "swarm-1"
    node = "n1"
    limits = SwarmLimits()

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.owners: dict[str, FakeOwner] = {}
        self.held = True
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def new_id(self, prefix: str) -> str:
        return self.clock.new_id(prefix)

    @contextlib.asynccontextmanager
    async def alone(self, caller: Caller, key: str) -> AsyncIterator["FakeSwarms"]:
        async with self._locks.setdefault((caller.principal, key), asyncio.Lock()):
            yield self

    async def create(self, caller: Caller, events: Sequence[Event]) -> FakeOwner:
        await asyncio.sleep(0)
        owner = FakeOwner(events, self.clock)
        self.owners[owner.state.swarm] = owner
        return owner

    async def of(self, caller: Caller, swarm: str) -> FakeOwner | None:
        return self.owners.get(swarm)

    async def default(self, caller: Caller) -> str:
        records = await self.records(caller)
        return next((one.swarm for one in records if one.status == "active"), "")

    async def records(self, caller: Caller) -> list[SwarmRecord]:
        found = [
            SwarmRecord(
                swarm=one.swarm,
                tenant=one.tenant,
                principal=one.principal,
                name=one.name,
                topology=one.topology,
                status=one.status,
                created_ms=one.created_ms,
                agents=sum(agent.status != "terminated" for agent in one.agents.values()),
                tasks=sum(not task.ended for task in one.tasks.values()),
                owner=one.owner,
                idempotency=one.idempotency,
            )
            for one in (owner.state for owner in self.owners.values())
            if (one.tenant, one.principal) == (caller.tenant, caller.principal)
        ]
        return sorted(found, key=lambda one: one.swarm, reverse=True)

    async def offers(self, caller: Caller) -> list[Bid]:
        return [Bid(host=HOST, types=TYPES), Bid(host="host-2", types=("tool",))]


class Room:
    """A caller with his swarms: calls as the service makes them, every answer checked."""

    def __init__(self, swarms: FakeSwarms, principal: str = "alice") -> None:
        self.swarms = swarms
        self.principal = principal

    @property
    def caller(self) -> Caller:
        return Caller(
            tenant="t1",
            principal=self.principal,
            context="ctx",
            deadline_s=self.swarms.monotonic() + 30,
        )

    @staticmethod
    def checked(tool: str, result: dict[str, Any]) -> dict[str, Any]:
        """See ``checked``."""
        return checked(tool, result)

    def someone_else(self, principal: str) -> "Room":
        return Room(self.swarms, principal)

    async def result(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The whole ``tools/call`` result."""
        raw = msgspec.Raw(msgspec.json.encode(arguments))
        dispatch.check(tool, raw)
        if tool in dispatch.ANYWHERE:
            try:
                body = await dispatch.call_anywhere(self.swarms, self.caller, tool, raw)
            except dispatch.Repeated as repeated:
                owner = self.swarms.owners[repeated.swarm.swarm]
                body = await dispatch.call_on_owner(owner, self.caller, tool, raw)
        else:
            swarm = dispatch.swarm_of(tool, raw) or await self.swarms.default(self.caller)
            owner = self.swarms.owners.get(swarm)
            if owner is None:
                body = dispatch.no_swarm(swarm, self.swarms.now_ms())
            else:
                body = await dispatch.call_on_owner(owner, self.caller, tool, raw)
        return checked(tool, msgspec.json.decode(body))

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Structured content of a call that must succeed."""
        result = await self.result(tool, **arguments)
        assert not result.get("isError"), result["structuredContent"]
        return result["structuredContent"]

    async def refused(self, tool: str, **arguments: object) -> dict[str, Any]:
        """``error`` of a call that must be refused."""
        result = await self.result(tool, **arguments)
        assert result.get("isError"), result
        return result["structuredContent"]["error"]

    async def bad(self, tool: str, **arguments: object) -> MeshError:
        """The error of a call whose arguments are bad."""
        with pytest.raises(MeshError) as caught:
            await self.result(tool, **arguments)
        assert caught.value.kind is ErrorKind.PARAMS
        return caught.value

    async def swarm(self, *types: str, **arguments: object) -> FakeOwner:
        """A swarm with these agents; the owner of it."""
        agents = [{"type": one, "name": f"{one}-{n}"} for n, one in enumerate(types, 1)]
        made = await self.call(
            "swarm_init", **{"topology": "mesh", "initialAgents": agents, **arguments}
        )
        return self.swarms.owners[made["swarmId"]]


_OUTPUTS = {
    tool.spec.name: jsonschema_rs.Draft202012Validator(dict(tool.spec.output_schema))
    for tool in catalog.TOOLS
}


def checked(tool: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result that is what MCP and the listed schema promise."""
    structured = result["structuredContent"]
    assert result["resultType"] == "complete"
    assert msgspec.json.decode(result["content"][0]["text"]) == structured
    assert isinstance(structured["timestamp"], int)
    if result.get("isError"):
        error = structured["error"]
        assert {"code", "reason", "message", "retryable", "outcome"} <= error.keys()
    else:
        problems = [error.message for error in _OUTPUTS[tool].iter_errors(structured)]
        assert not problems, (tool, problems, structured)
    return result


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def swarms(clock: FakeClock) -> FakeSwarms:
    return FakeSwarms(clock)


@pytest.fixture
def room(swarms: FakeSwarms) -> Room:
    return Room(swarms)
