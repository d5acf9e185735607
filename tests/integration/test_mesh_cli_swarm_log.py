"""``mesh doctor`` says that the log of swarms is nearly full before it refuses."""

import pytest

from mcp_proto import subjects
from mesh_chassis.stream import ensure_stream, publish
from mesh_chassis.tenant_streams import swarm_log
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import ConnectBus
from mesh_cli.connection import connected
from mesh_cli.doctor.swarms import check_swarm_log
from mesh_cli.options import Target

SIZE = 100_000


@pytest.mark.slow
async def test_doctor_tells_of_a_log_that_is_nearly_full_and_of_no_other(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    registry = await connect_bus("registry", "registry-1")
    owner = await connect_bus("swarm-coordinator", "swarm-1")
    operator = Target(urls=(broker.url,), nkey=broker.seed_for("operator", "operator"))
    async with connected(operator) as client:
        assert await check_swarm_log(client) is None
        await ensure_stream(registry, swarm_log(SIZE))
        log = subjects.task("acme", "log", "swarm_1")
        await publish(owner, log, bytes(SIZE // 2))
        assert await check_swarm_log(client) is None
        await publish(owner, log, bytes(SIZE * 2 // 5 + 2_000))
        found = await check_swarm_log(client)
    assert found is not None
    assert "mesh swarm list" in found.mend
    assert "97.7 KiB" in found.what
