"""Large values on a real broker: whole, or lost and said so."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from swarm_coordinator.store.values import PART_BYTES, Values

ConnectBus = Callable[..., Awaitable[Bus]]


async def test_a_value_of_many_parts_comes_back_byte_for_byte(
    connect_bus: ConnectBus, provision: None
) -> None:
    values = Values(await connect_bus("swarm-coordinator", "swarm-1"), "acme")
    body = bytes(range(256)) * (5 * PART_BYTES // 256) + b"end"
    reference = await values.put("swarm_1", body)
    assert await values.get("swarm_1", reference) == body


async def test_values_are_stored_again_when_the_broker_has_lost_their_bucket(
    connect_bus: ConnectBus, provision: None
) -> None:
    tenant = f"t{uuid4().hex[:12]}"
    values = Values(await connect_bus("swarm-coordinator", "swarm-1"), tenant)
    before = await values.put("swarm_1", b"x" * 300_000)
    operator = await connect_bus("operator", "operator")
    await operator.request(f"$JS.API.STREAM.DELETE.OBJ_mesh_swarm_{tenant}", b"", timeout_s=5)

    after = await values.put("swarm_1", b"y" * 300_000)

    assert await values.get("swarm_1", after) == b"y" * 300_000
    with pytest.raises(MeshError) as caught:
        await values.get("swarm_1", before)
    assert caught.value.kind is ErrorKind.LOST
