"""An owner that sleeps through its own succession, and agents that lie."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from nats.aio.client import Client
from tests.chaos.swarm_fence import Appends, life_of
from tests.chaos.swarm_log import LogReader, mirror_logs, operator
from tests.integration.swarm_rig import (
    TENANT,
    Caller,
    Process,
    ScriptedHost,
    process,
    replica,
    result,
    scripted_host,
)
from tests.integration.test_swarm_takeover import patient

from mcp_proto.contracts.swarm import WorkItem, WorkResult
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually

FROZEN_S = 10.0
LEASE_S = 3.0
"""It is over before the broker cuts off whoever answers no pings, after 4 to 6 s."""
STEPS = 400


@pytest_asyncio.fixture
async def caller(broker: Broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def host(broker: Broker, connect_bus, provision) -> AsyncIterator[ScriptedHost]:
    async with scripted_host(connect_bus) as made:
        yield made


@pytest_asyncio.fixture
async def watcher(broker: Broker, provision) -> AsyncIterator[Client]:
    """May read everything; a copy of all logs is being made."""
    client = await operator(broker.url, broker.seed_for("operator", "operator"))
    await mirror_logs(client)
    yield client
    await client.close()


@pytest_asyncio.fixture
async def two(broker: Broker, tmp_path: Path, provision) -> AsyncIterator[dict[str, Process]]:
    async with (
        process(broker, tmp_path, "swarm-1", lease_s=LEASE_S) as one,
        process(broker, tmp_path, "swarm-2", lease_s=LEASE_S) as two,
    ):
        yield {"swarm-1": one, "swarm-2": two}


async def square(item: WorkItem) -> WorkResult:
    n = msgspec.json.decode(item.payload)["input"]
    return result(item, n * n)


def squares(count: int, **phase: object) -> dict[str, object]:
    one = {"name": "one", "fanout": {"items": list(range(count))}, **phase}
    return {"description": "squares", "phases": [one]}


async def swarm_of(caller: Caller, agents: int) -> str:
    made = await patient(caller, "swarm_init", topology="mesh")
    for _ in range(agents):
        await caller.tool("agent_spawn", type="function", wait=True)
    return made["swarmId"]


class Frozen:
    """A task under way whose owner does not move."""

    def __init__(self, caller: Caller, host: ScriptedHost, watcher: Client) -> None:
        self._caller, self._host, self._watcher = caller, host, watcher

    async def begin(self, two: dict[str, Process]) -> None:
        async def slow(item: WorkItem) -> WorkResult:
            await asyncio.sleep(0.4)
            return await square(item)

        self._host.work = slow
        swarm = await swarm_of(self._caller, 2)
        self.log = LogReader(self._watcher, TENANT, swarm)
        self._appends = Appends(self._watcher, self.log.subject)
        await self._appends.watch()
        made = await self._caller.tool("task_orchestrate", task=squares(STEPS))
        self.task = made["taskId"]
        await eventually(lambda: len(self._host.done) >= 20)
        self.old = (await patient(self._caller, "swarm_status"))["owner"]
        (self.new,) = two.keys() - {self.old}
        self.process = two[self.old]
        self.process.freeze()

    @property
    def refused(self) -> list[str]:
        """Who wrote what the log did not take."""
        return [life_of(one) for one in self._appends.refused(self.log.ids.__contains__)]

    async def check(self) -> None:
        """Everything is done once, and nothing is in the log behind what the new owner wrote."""
        caller, host = self._caller, self._host
        assert len(host.done) < STEPS, "it slept through all the work"
        status = await caller.ended(self.task, timeout_s=40)
        await self.log.read_all()
        assert status["status"] == "completed", status
        assert status["progress"] == {"done": STEPS, "total": STEPS}
        found = (await patient(caller, "task_result", taskId=self.task))["result"]
        assert found == [n * n for n in range(STEPS)]
        assert set(host.runs.values()) == {1}
        assert (self.old, self.new) in itertools.pairwise(self.log.owners)
        assert self.log.strays == []
        assert self.log.lives[-1] not in self.refused
        assert self.process.child.returncode is None
        assert (await patient(caller, "swarm_status"))["owner"] == self.log.owners[-1]


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_an_owner_that_was_frozen_for_10_seconds_writes_nothing_when_it_wakes(
    caller: Caller, host: ScriptedHost, two: dict[str, Process], watcher: Client
) -> None:
    frozen = Frozen(caller, host, watcher)
    await frozen.begin(two)
    await asyncio.sleep(FROZEN_S)
    frozen.process.wake()
    await frozen.check()


@pytest.mark.slow
async def test_agents_that_lie_change_nothing_and_are_counted(
    connect_bus, caller: Caller, host: ScriptedHost, watcher: Client
) -> None:
    steps = 12
    async with replica(connect_bus), scripted_host(connect_bus, "agent-host-2") as stranger:
        swarm = await swarm_of(caller, 3)
        liars, bystander = (host, stranger) if len(host.agents) >= 2 else (stranger, host)
        held: dict[str, WorkResult] = {}

        async def lie(item: WorkItem) -> WorkResult | None:
            made = await square(item)
            false = msgspec.structs.replace(made, structured=msgspec.Raw(b'"false"'))
            if item.attempt == 1 and msgspec.json.decode(item.payload)["input"] % 3 == 0:
                held[item.item] = false  # until the step is done elsewhere
                return None
            other = next(name for name in liars.agents if name != item.agent)
            forged = msgspec.structs.replace(false, agent=other)
            assert await liars.send(swarm, (forged,)) is not None
            assert await bystander.send(swarm, (false,)) is not None
            assert await liars.send(swarm, (made, false)) is not None
            return false  # the same attempt a third time, after its end

        liars.work, bystander.work = lie, square
        task = squares(steps, timeout=1, retryPolicy="immediate")
        made = await caller.tool("task_orchestrate", task=task)
        status = await caller.ended(made["taskId"])
        assert await liars.send(swarm, tuple(held.values())) is not None
        await eventually(lambda: not liars.untaken and not bystander.untaken)

        log = LogReader(watcher, TENANT, swarm)
        await log.read_all()
        status = await caller.tool("task_status", taskId=made["taskId"])
        assert status["status"] == "completed", status
        found = await caller.tool("task_result", taskId=made["taskId"])
        assert found["result"] == [n * n for n in range(steps)]
        assert log.tasks[made["taskId"]] == 1
        assert {log.ends[made["taskId"], f"one-{n}"] for n in range(steps)} == {1}
        assert held
        assert set(log.ignored) == {"wrong_agent", "wrong_host", "duplicate", "late"}
        assert log.ignored["late"] == len(held)
        told = status["usage"]
        assert told["late"] == log.ignored["late"]
        assert told["duplicates"] == log.ignored["duplicate"]
        assert told["ignored"] == log.ignored["wrong_agent"] + log.ignored["wrong_host"]
