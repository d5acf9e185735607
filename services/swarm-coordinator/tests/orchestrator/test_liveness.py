"""Silence of agents: asked after one missing beat, lost after three."""

from collections.abc import AsyncIterator

import pytest_asyncio

from mcp_proto.contracts.swarm import AgentBeat, Beat, WorkProgress
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core.state import AgentState
from swarm_coordinator.orchestrator.liveness import Liveness


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.agents = {"agent_1": AgentState(id="agent_1", type="x", host="h", status="active")}
        self.probed: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self.tasks = Tasks("test")
        self.liveness = Liveness(
            lambda: self.agents,
            clock=lambda: self.now,
            probe=self.probe,
            lost=lambda agent, reason: self.lost.append((agent, reason)),
            tasks=self.tasks,
        )

    async def probe(self, agent: str) -> None:
        self.probed.append(agent)

    async def at(self, seconds: float) -> None:
        self.now = 100.0 + seconds
        self.liveness.look()
        await self.tasks.join(1.0)

    def beat(self, host: str = "h", epoch: int = 1, state: str = "active") -> None:
        one = AgentBeat(agent="agent_1", epoch=epoch, state=state)  # type: ignore[arg-type]
        self.liveness.note(host, Beat(boot="b", node="n", agents=(one,)), int(self.now * 1000))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.tasks.close()


async def test_an_agent_that_beats_is_left_alone(rig: Rig) -> None:
    for n in range(10):
        await rig.at(n * 5.0)
        rig.beat()
    assert (rig.probed, rig.lost) == ([], [])


async def test_a_silent_agent_is_asked_for_and_then_lost_within_16_seconds(rig: Rig) -> None:
    await rig.at(0)
    rig.beat()
    await rig.at(5.5)
    assert rig.probed == []
    await rig.at(6.0)
    await rig.at(7.0)
    assert rig.probed == ["agent_1"]
    await rig.at(14.9)
    assert rig.lost == []
    await rig.at(15.0)
    assert rig.lost == [("agent_1", "silent")]


async def test_a_new_owner_gives_an_agent_the_full_time(rig: Rig) -> None:
    await rig.at(1000.0)
    await rig.at(1014.0)
    assert rig.lost == []
    await rig.at(1015.0)
    assert len(rig.lost) == 1


async def test_beats_of_another_host_another_life_or_a_frozen_agent_do_not_count(
    rig: Rig,
) -> None:
    rig.agents["agent_1"].external, rig.agents["agent_1"].epoch = True, 8
    await rig.at(0)
    rig.beat(epoch=8)
    for seconds in (5.0, 10.0, 14.0):
        await rig.at(seconds)
        rig.beat(host="somebody")
        rig.beat(epoch=7)
        rig.beat(epoch=8, state="frozen")
    await rig.at(15.0)
    assert rig.lost == [("agent_1", "silent")]


async def test_a_host_that_has_not_heard_of_a_new_life_of_its_agent_is_believed(rig: Rig) -> None:
    rig.agents["agent_1"].epoch = 2  # it was lost, and is back
    for n in range(6):
        await rig.at(n * 5.0)
        rig.beat(epoch=1)
    assert rig.lost == []


async def test_agents_that_do_not_run_are_not_missed(rig: Rig) -> None:
    for status in ("spawning", "lost", "terminated"):
        rig.agents["agent_1"].status = status  # type: ignore[assignment]
        await rig.at(0)
        await rig.at(100.0)
    assert (rig.probed, rig.lost) == ([], [])


async def test_progress_is_kept_for_as_many_attempts_as_a_swarm_runs(rig: Rig) -> None:
    for n in range(3_000):
        rig.liveness.note_progress(WorkProgress(agent="agent_1", item=str(n), progress=0.5), n)
    rig.liveness.note_progress(WorkProgress(agent="agent_1", item="1000", progress=0.7), 3_000)
    assert len(rig.liveness.progress) == 2_000
    assert "2999" in rig.liveness.progress
    assert rig.liveness.progress["1000"].at_ms == 3_000
