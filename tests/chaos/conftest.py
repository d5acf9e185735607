"""A mesh of two gateways and two runners, with a stdio server that does what it is asked to."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from tests.conftest import LAB, run
from tests.e2e.running_mesh import AS_SHIPPED, RunningMesh

CONFIG = f"""
[[mcp_servers]]
name = "lab"
command = "{sys.executable}"
args = ["{LAB}", "{{count}}"]
"""
CLOSED = """
[security]
auth_enabled = true
"""


@pytest.fixture(scope="module")
def mesh_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMesh]:
    """Two gateways, two runners; one that asks for keys where the module has ``NEEDS_KEYS``."""
    room: Path = tmp_path_factory.mktemp("pair") / "room"
    config = CONFIG.format(count=room / "counted")
    if getattr(request.module, "NEEDS_KEYS", False):
        config = CLOSED + config
    two = ("--gateways", "2", "--runners", "2")
    yield from run(RunningMesh(room, *two, config=config, env=AS_SHIPPED))


@pytest_asyncio.fixture
async def operator(mesh_pair: RunningMesh) -> AsyncIterator[Client]:
    """A plain NATS connection that may do everything."""
    client = await nats.connect(mesh_pair.nats, nkeys_seed=mesh_pair.seed("operator"))
    yield client
    await client.close()
