"""Agents that are being started while their swarm goes to another owner."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_proto.contracts.swarm import Spawned
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.core import decide, turn
from swarm_coordinator.core.spec import SwarmConfig
from swarm_coordinator.orchestrator.actor import Actor
from swarm_coordinator.orchestrator.hosting import Hosting
from swarm_coordinator.orchestrator.journal import taken_over
from swarm_coordinator.orchestrator.spawning import Placed

AGENTS = 3


class Log:
    """Takes everything."""

    subject = "mesh.v1.acme.task.log.swarm_1"
    sequence = 0

    async def append(self, body: bytes, kind: str = "events") -> int:
        self.sequence += 1
        return self.sequence


class Places:
    """Hosts that start an agent when they are let."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def place(self, _state: object, _agent: object) -> Placed:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Placed(host="agent-host-1", spawned=Spawned(runtime="function", slots=1))


class Rig:
    def __init__(self) -> None:
        made = decide.create(
            swarm="swarm_1", tenant="acme", principal="ann", topology="mesh",
            config=SwarmConfig(), owner="swarm-1", now_ms=1,
        )  # fmt: skip
        state = turn.begin(made)
        self.agents = [f"agent_{n}" for n in range(AGENTS)]
        for agent in self.agents:
            added = decide.add_agent(state, agent=agent, agent_type="function", now_ms=1)
            turn.take(state, added, 1, 0)
        self.tasks = Tasks("owner of swarm_1")
        log: Any = Log()
        self.actor = Actor(
            state, log, clock_ms=lambda: 2, snapshot_events=1000, message_bytes=10_000,
            metrics=Metrics("swarm-coordinator", "0", "swarm-1"), tasks=self.tasks,
        )  # fmt: skip
        self.places = Places()
        unused: Any = None
        places: Any = self.places
        self.hosting = Hosting(unused, self.actor, places, unused, self.tasks)
        self.tasks.spawn(self.actor.run(), name="actor")


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.tasks.close()


async def began(rig: Rig) -> list["asyncio.Future[Spawned]"]:
    told = [rig.hosting.begin_spawn(agent) for agent in rig.agents]
    await eventually(lambda: rig.places.asked == AGENTS)
    return told


async def told_lost(told: "asyncio.Future[Spawned]") -> None:
    with pytest.raises(MeshError) as caught:
        await told
    assert caught.value.kind is ErrorKind.LOST


async def test_who_waits_for_an_agent_is_told_where_it_runs_and_a_repeat_joins(rig: Rig) -> None:
    first, *_ = await began(rig)
    assert rig.hosting.begin_spawn(rig.agents[0]) is first
    rig.places.open.set()
    assert (await first).runtime == "function"
    assert rig.actor.state.agents[rig.agents[0]].host == "agent-host-1"


async def test_an_owner_that_is_replaced_while_agents_start_says_so_in_one_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told = await began(rig)
    rig.actor.give_up(taken_over())
    rig.places.open.set()
    for one in told:
        await told_lost(one)
    assert await rig.tasks.join(1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "swarm swarm_1 is no longer owned here: another replica owns the swarm now"
    ]
    assert caplog.records[0].exc_info is None


async def test_who_waits_for_an_agent_is_told_when_the_owner_is_stopped_at_once(rig: Rig) -> None:
    told = await began(rig)
    await rig.tasks.close()
    for one in told:
        await told_lost(one)
    with pytest.raises(MeshError) as caught:
        rig.hosting.begin_spawn(rig.agents[0])
    assert caught.value.kind is ErrorKind.LOST


async def test_a_fault_while_an_agent_starts_is_logged_whole_and_told(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.places.error = ValueError("a fault of ours")
    told = await began(rig)
    rig.places.open.set()
    with pytest.raises(ValueError, match="ours"):
        await told[0]
    await eventually(lambda: sum(1 for one in caplog.records if one.exc_info) == AGENTS)
