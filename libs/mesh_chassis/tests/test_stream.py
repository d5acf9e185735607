import asyncio
import secrets

import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.stream import Conflict, StreamConfig, ensure_stream, publish
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import ConnectBus


@pytest.fixture
async def operator(connect_bus: ConnectBus) -> Bus:
    return await connect_bus("operator", "operator")


def fresh_stream(**settings: object) -> StreamConfig:
    name = f"S_{secrets.token_hex(4)}"
    return StreamConfig(name=name, subjects=(f"{name}.>",), **settings)  # type: ignore[arg-type]


async def test_publisher_gets_growing_sequences(shared_broker: Broker, operator: Bus) -> None:
    config = fresh_stream()
    await ensure_stream(operator, config)
    first = await publish(operator, f"{config.name}.a", b"1")
    second = await publish(operator, f"{config.name}.a", b"2")
    assert (first.seq, second.seq, first.stream) == (1, 2, config.name)


async def test_message_is_stored_once_when_its_id_repeats(
    shared_broker: Broker, operator: Bus
) -> None:
    config = fresh_stream()
    await ensure_stream(operator, config)
    first = await publish(operator, f"{config.name}.a", b"1", msg_id="m1")
    again = await publish(operator, f"{config.name}.b", b"1", msg_id="m1")
    assert again.duplicate
    assert again.seq == first.seq


async def test_publisher_is_refused_when_the_expected_sequence_is_stale(
    shared_broker: Broker, operator: Bus
) -> None:
    config = fresh_stream()
    await ensure_stream(operator, config)
    ack = await publish(operator, f"{config.name}.a", b"1", expected_last=0)
    await publish(operator, f"{config.name}.a", b"2", expected_last=ack.seq)
    with pytest.raises(Conflict) as caught:
        await publish(operator, f"{config.name}.a", b"3", expected_last=ack.seq)
    assert caught.value.revision == ack.seq + 1


async def test_publisher_is_told_not_executed_when_the_stream_is_full(
    shared_broker: Broker, operator: Bus
) -> None:
    config = fresh_stream(max_msgs=1, discard="new")
    await ensure_stream(operator, config)
    await publish(operator, f"{config.name}.a", b"1")
    with pytest.raises(MeshError) as caught:
        await publish(operator, f"{config.name}.a", b"2")
    assert caught.value.kind is ErrorKind.OVERLOADED
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_owner_is_told_when_a_stream_cannot_become_what_it_wants(
    shared_broker: Broker, operator: Bus
) -> None:
    import msgspec

    config = fresh_stream()
    await ensure_stream(operator, config)
    with pytest.raises(MeshError) as caught:
        await ensure_stream(operator, msgspec.structs.replace(config, storage="memory"))
    assert caught.value.kind is ErrorKind.INTERNAL
    assert "storage" in (caught.value.internal or "")


async def test_owners_may_ensure_at_the_same_time(
    shared_broker: Broker, connect_bus: ConnectBus, operator: Bus
) -> None:
    other = await connect_bus("operator", "operator-2")
    config = fresh_stream()
    done = await asyncio.gather(*(ensure_stream(bus, config) for bus in (operator, other) * 4))
    assert any(done)
    assert await ensure_stream(operator, config) is False


async def test_what_an_operator_added_survives_an_update(
    shared_broker: Broker, operator: Bus
) -> None:
    import msgspec

    from mesh_chassis.jetstream import api

    class Info(msgspec.Struct):
        config: dict[str, msgspec.Raw]

    config = fresh_stream()
    await ensure_stream(operator, config)
    info = await api(operator, f"STREAM.INFO.{config.name}", b"", Info)
    body = msgspec.json.encode({**info.config, "description": "kept"})
    await api(operator, f"STREAM.UPDATE.{config.name}", body, Info)
    assert await ensure_stream(operator, msgspec.structs.replace(config, max_msgs=10)) is True
    info = await api(operator, f"STREAM.INFO.{config.name}", b"", Info)
    assert bytes(info.config["description"]) == b'"kept"'
    assert bytes(info.config["max_msgs"]) == b"10"


async def test_publish_without_id_says_unknown_when_the_receipt_is_lost(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    operator = await connect_bus("operator", "operator")
    config = fresh_stream()
    await ensure_stream(operator, config)
    broker.pause()
    with pytest.raises(MeshError) as caught:
        await publish(operator, f"{config.name}.a", b"1", timeout_s=0.5)
    assert caught.value.outcome is Outcome.UNKNOWN
    broker.resume()


async def test_registry_ensures_the_shared_streams_with_its_rights(
    shared_broker: Broker, connect_bus: ConnectBus
) -> None:
    registry = await connect_bus("registry", "registry-1")
    config = StreamConfig(
        name="MESH_AUDIT",
        subjects=("mesh.v1.*.evt.audit.>",),
        discard="new",
        deny_delete=True,
        deny_purge=True,
    )
    await ensure_stream(registry, config)
    ack = await publish(registry, "mesh.v1._.evt.audit.registry-1", b"{}", msg_id="a1")
    assert ack.stream == "MESH_AUDIT"
