"""The coordinator and the mesh's own agent host, together on a real broker."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.swarm_rig import Caller, replica

from mesh_agents.config import AgentHostConfig, HostSection, TypesSection
from mesh_agents.service import build as build_host
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.in_process import in_process

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def caller(broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def agents(broker, connect_bus, provision, tmp_path: Path) -> AsyncIterator[None]:
    config = AgentHostConfig(
        service=ServiceSection(instance="agent-host-1", accept_s=0.0),
        host=HostSection(work_dir=str(tmp_path / "agents")),
        types=TypesSection(roots=(str(tmp_path),)),
    )
    async with in_process(build_host, config, await connect_bus("agent-host", "agent-host-1")):
        yield


async def test_built_in_agents_count_a_file_and_their_processes_end_with_the_swarm(
    connect_bus, caller, agents, tmp_path: Path
) -> None:
    (tmp_path / "figures.csv").write_text("x\n1\n2\n6\n")
    async with replica(connect_bus):
        made = await caller.tool("swarm_init", topology="star")
        agent = await caller.tool("agent_spawn", type="analyst", wait=True)
        assert agent["initialisationMetrics"]["spawnTime"] > 0
        work = {
            "do": "analyse",
            "sources": [{"path": "figures.csv"}],
            "analysis": {"format": "csv", "numbers": ["x"]},
        }
        phase = {"name": "count", "input": work}
        task = await caller.tool(
            "task_orchestrate", task={"description": "statistics", "phases": [phase]}
        )
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed", json.dumps(status)
        told = await caller.tool("task_result", taskId=task["taskId"])
        assert '"sum": 9' in json.dumps(told["result"])
        destroyed = await caller.tool("swarm_destroy", swarmId=made["swarmId"])
        assert destroyed["agentsTerminated"] == 1
