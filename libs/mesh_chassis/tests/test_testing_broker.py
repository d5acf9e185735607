import asyncio
import os
import time
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from mcp_proto.broker_rights import inbox_prefix
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually


async def _connect(broker: Broker, service: str, instance: str) -> Client:
    async def quiet(_: Exception) -> None:
        return

    return await asyncio.wait_for(
        nats.connect(
            broker.url,
            nkeys_seed=broker.seed_for(service, instance),
            inbox_prefix=inbox_prefix(service, instance),
            error_cb=quiet,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
        ),
        5,
    )


async def test_broker_starts_fast_and_accepts_a_declared_user(tmp_path: Path) -> None:
    began = time.monotonic()
    async with Broker(tmp_path) as broker:
        assert time.monotonic() - began < 2
        client = await _connect(broker, "gateway", "gateway-1")
        assert client.max_payload == 1024 * 1024
        await client.close()


async def test_broker_adds_an_undeclared_user_while_others_stay_connected(broker: Broker) -> None:
    first = await _connect(broker, "gateway", "gateway-1")
    late = await _connect(broker, "tool-runner", "late-comer")
    await first.flush()
    await late.flush()
    assert first.stats["reconnects"] == 0
    await first.close()
    await late.close()


async def test_broker_keeps_port_and_data_when_killed_and_started(broker: Broker) -> None:
    url = broker.url
    client = await _connect(broker, "operator", "operator")
    js = client.jetstream()
    await js.add_stream(name="kept", subjects=["kept.>"])
    ack = await js.publish("kept.one", b"1")
    await broker.kill()
    await broker.start()
    assert broker.url == url
    again = await _connect(broker, "operator", "operator")
    message = await again.jetstream().get_msg("kept", seq=ack.seq)
    assert message.data == b"1"
    await again.close()
    await client.close()


async def test_broker_answers_again_when_resumed(broker: Broker) -> None:
    client = await _connect(broker, "operator", "operator")
    broker.pause()
    with pytest.raises(asyncio.TimeoutError):
        await client.flush(timeout=1)
    broker.resume()

    async def flushed() -> bool:
        try:
            await client.flush(timeout=1)
        except (TimeoutError, nats.errors.Error, OSError):
            return False
        return True

    await eventually(flushed, timeout_s=10)
    await client.close()


async def test_broker_keeps_no_process_when_left(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        pid = broker.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_seed_files_are_readable_by_their_owner_only(shared_broker: Broker) -> None:
    path = Path(shared_broker.seed_for("gateway", "gateway-1"))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_client_hears_no_inbox_of_another_when_it_tries(shared_broker: Broker) -> None:
    runner = await _connect(shared_broker, "tool-runner", "runner-1")
    gateway = await _connect(shared_broker, "gateway", "gateway-1")
    heard: list[bytes] = []

    async def on_message(message: object) -> None:
        heard.append(b"x")

    await runner.subscribe(f"{inbox_prefix('gateway', 'gateway-1')}.>", cb=on_message)
    await runner.flush()
    own = await gateway.subscribe(f"{inbox_prefix('gateway', 'gateway-1')}.x")
    operator = await _connect(shared_broker, "operator", "operator")
    await operator.publish(f"{inbox_prefix('gateway', 'gateway-1')}.x", b"secret")
    await own.next_msg(timeout=2)
    await runner.flush()
    assert heard == []
    for client in (operator, gateway, runner):
        await client.close()
