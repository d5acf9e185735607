"""The connection under faults: broker gone, frozen, back; runner killed; credentials refused."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.nuid import NUID

from mcp_proto import subjects
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus import link as link_module
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.testing.broker import Broker

pytestmark = pytest.mark.slow

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]
ConnectBus = Callable[..., Awaitable[Bus]]
PROGRAM = Path(__file__).with_name("runner_process.py")


async def echo(call: Call) -> bytes:
    return call.payload


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - state of the client, without an event
            await asyncio.sleep(0.005)


async def test_connect_to_nobody_fails_in_time_naming_url_and_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"nats://user:secret@127.0.0.1:{free.getsockname()[1]}"
    config = BusConfig(urls=(url,), connect_timeout_s=0.4)
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await Bus.connect(config, service="gateway", instance="gateway-1")
    assert time.monotonic() - before < 1.5
    assert raised.value.kind is ErrorKind.BUS
    assert url.rpartition("@")[2] in raised.value.message
    assert "secret" not in raised.value.message
    assert "refused" in raised.value.message.lower() or "connect" in raised.value.message.lower()


async def test_connect_with_an_unknown_key_fails_at_once_naming_the_refusal(
    shared_broker: Broker, tmp_path: Path
) -> None:
    from mesh_chassis.broker_config import new_nkey, write_seed

    seed, _ = new_nkey()
    write_seed(tmp_path / "stranger.nk", seed)
    config = BusConfig(urls=(shared_broker.url,), nkey_seed_file=str(tmp_path / "stranger.nk"))
    before = time.monotonic()
    with pytest.raises(MeshError, match=r"(?i)authorization"):
        await Bus.connect(config, service="gateway", instance="gateway-1")
    assert time.monotonic() - before < 1


async def test_connect_with_a_missing_seed_file_fails_naming_it(shared_broker: Broker) -> None:
    config = BusConfig(urls=(shared_broker.url,), nkey_seed_file="/no/such/seed.nk")
    with pytest.raises(MeshError, match=r"seed\.nk"):
        await Bus.connect(config, service="gateway", instance="gateway-1")


async def test_connect_under_another_instances_key_is_refused_its_inbox(
    shared_broker: Broker,
) -> None:
    seed = shared_broker.seed_for("gateway", "gateway-2")
    config = BusConfig(urls=(shared_broker.url,), nkey_seed_file=seed)
    with pytest.raises(MeshError, match="inbox"):
        await Bus.connect(config, service="gateway", instance="gateway-1")


async def test_broker_clock_is_known_with_the_rights_of_a_service(gateway: Bus) -> None:
    assert gateway.clock.known
    assert abs(gateway.server_now_ms() - time.time() * 1000) < 200


async def test_killed_broker_fails_calls_in_flight_at_once_and_calls_work_again_after_it(
    broker: Broker, serve: Serve, gateway: Bus, runner: Bus, call: MakeCall
) -> None:
    started = asyncio.Event()
    lost: list[float] = []

    async def handler(request: Call) -> bytes:
        if request.payload == b"wait":
            started.set()
            await asyncio.sleep(30)
        return request.payload

    back = asyncio.Event()

    async def on_back() -> None:
        back.set()

    gateway.on_disconnect(lambda: lost.append(time.monotonic()))
    gateway.on_reconnect(on_back)
    await serve(handler)
    task = asyncio.create_task(call(b"wait", timeout_s=30))
    await started.wait()
    killed = time.monotonic()
    await broker.kill()
    with pytest.raises(MeshError) as raised:
        await task
    assert raised.value.kind is ErrorKind.LOST
    assert raised.value.outcome is Outcome.UNKNOWN
    assert time.monotonic() - killed < 0.5
    assert len(lost) == 1
    with pytest.raises(MeshError) as raised:
        await call(b"down")
    assert raised.value.kind is ErrorKind.BUS
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    await broker.start()
    async with asyncio.timeout(5):
        await back.wait()
    # The runner may be back after us: no-responders is repeated for a second (E15).
    assert await call(b"again") == b"again"
    assert runner.connected


async def test_nothing_sent_while_disconnected_is_executed_after_the_reconnect(
    broker: Broker, serve: Serve, gateway: Bus, runner: Bus, call: MakeCall, server: str
) -> None:
    ran: list[bytes] = []

    async def handler(request: Call) -> bytes:
        ran.append(request.payload)
        return b""

    await serve(handler)
    await broker.kill()
    await until(lambda: not gateway.connected, 1)
    for _ in range(5):
        with pytest.raises(MeshError) as raised:
            await call(b"ghost")
        assert raised.value.kind is ErrorKind.BUS
        with pytest.raises(MeshError):
            await gateway.publish(subjects.call("acme", server, "tool"), b"ghost")
    await broker.start()
    await until(lambda: gateway.connected and runner.connected, 5)
    await call(b"real")
    assert ran == [b"real"]


async def test_frozen_broker_is_noticed_within_three_and_a_half_seconds(
    broker: Broker, serve: Serve, gateway: Bus, call: MakeCall
) -> None:
    started = asyncio.Event()

    async def handler(request: Call) -> bytes:
        started.set()
        await asyncio.sleep(30)
        return b""

    await serve(handler)
    task = asyncio.create_task(call(timeout_s=30))
    await started.wait()
    broker.pause()
    frozen = time.monotonic()
    try:
        with pytest.raises(MeshError) as raised:
            await task
        assert time.monotonic() - frozen < 3.5
        assert raised.value.kind is ErrorKind.LOST
        assert raised.value.outcome is Outcome.UNKNOWN
        assert not gateway.connected
    finally:
        broker.resume()
    await until(lambda: gateway.connected, 8)


async def test_call_sent_to_a_frozen_broker_never_runs_late(
    broker: Broker, serve: Serve, gateway: Bus, runner: Bus, call: MakeCall
) -> None:
    """E12: a stopped broker keeps what it got; start-by makes the runner refuse it."""
    ran: list[bytes] = []

    async def handler(request: Call) -> bytes:
        ran.append(request.payload)
        return b""

    await serve(handler)
    broker.pause()
    try:
        with pytest.raises(MeshError):
            await gateway.link.round_trip(0.1)  # really frozen: the stop takes a moment
        task = asyncio.create_task(call(b"ghost", timeout_s=30))
        with pytest.raises(MeshError) as raised:
            await task
        assert raised.value.outcome is Outcome.UNKNOWN
    finally:
        broker.resume()
    await until(lambda: gateway.connected and runner.connected, 8)
    await call(b"real")
    assert ran == [b"real"]


@asynccontextmanager
async def runner_process(broker: Broker, server: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        broker.url,
        broker.seed_for("tool-runner", "runner-2"),
        server,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            assert await process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The pipe transport closes with the process; a loop turn lets it.
        await asyncio.sleep(0)


@pytest.mark.parametrize("age_s", [0.0, 0.7], ids=["young call", "probed call"])
async def test_killed_runner_makes_its_calls_unknown_within_a_second(
    shared_broker: Broker, gateway: Bus, server: str, call: MakeCall, age_s: float
) -> None:
    async with runner_process(shared_broker, server) as pid:
        started = asyncio.Event()
        tasks = [
            asyncio.create_task(call(timeout_s=30, on_frame=lambda _: started.set()))
            for _ in range(5)
        ]
        async with asyncio.timeout(2):
            await started.wait()
        await asyncio.sleep(age_s)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - killed < 1.0
    for error in errors:
        assert isinstance(error, MeshError)
        assert error.kind is ErrorKind.LOST
        assert error.outcome is Outcome.UNKNOWN


async def test_runner_that_came_back_under_its_name_does_not_keep_dead_calls_alive(
    shared_broker: Broker, gateway: Bus, server: str, call: MakeCall
) -> None:
    """A restart faster than the first probe: the ping is answered, by another run."""
    async with runner_process(shared_broker, server) as pid:
        started = asyncio.Event()
        task = asyncio.create_task(call(timeout_s=30, on_frame=lambda _: started.set()))
        async with asyncio.timeout(2):
            await started.wait()
        config = BusConfig(
            urls=(shared_broker.url,),
            nkey_seed_file=shared_broker.seed_for("tool-runner", "runner-2"),
        )
        again = await Bus.connect(config, service="tool-runner", instance="runner-2")
        subject = subjects.call(subjects.ANY, f"{server}x", subjects.ANY)
        endpoint = Endpoint(again, subject=subject, handler=echo, queue="w")
        os.kill(pid, signal.SIGKILL)
        await endpoint.start()
        async with asyncio.timeout(1.5):
            with pytest.raises(MeshError) as raised:
                await task
        assert raised.value.kind is ErrorKind.LOST
        await endpoint.drain()
        await again.close()


async def test_frozen_runner_is_not_taken_for_dead(
    shared_broker: Broker, gateway: Bus, server: str, call: MakeCall
) -> None:
    async with runner_process(shared_broker, server) as pid:
        started = asyncio.Event()
        task = asyncio.create_task(call(timeout_s=30, on_frame=lambda _: started.set()))
        async with asyncio.timeout(2):
            await started.wait()
        os.kill(pid, signal.SIGSTOP)
        done, _ = await asyncio.wait({task}, timeout=1.3)
        os.kill(pid, signal.SIGCONT)
        assert not done
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_connection_closed_by_the_broker_for_good_calls_on_closed_once(
    connect_bus: ConnectBus,
) -> None:
    closed: list[str] = []
    bus = await connect_bus("gateway", "gateway-3", on_closed=lambda: closed.append("x"))
    # What the broker answers with -ERR and a close: a control line over its limit.
    bus.client.send("a" * 5000, "", b"", b"")
    await until(lambda: bool(closed), 3)
    assert not bus.connected
    with pytest.raises(MeshError) as raised:
        await bus.publish("mesh.v1.acme.evt.log.gateway-3")
    assert raised.value.kind is ErrorKind.BUS
    await asyncio.sleep(0.05)
    assert closed == ["x"]


async def test_reconnecting_in_vain_to_a_broker_that_greets_ends_the_process(
    broker: Broker, connect_bus: ConnectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials revoked while down: RECONNECTING for ever without a closed callback (T29)."""
    monkeypatch.setattr(link_module, "HOPELESS_S", 0.5)
    monkeypatch.setattr(link_module, "GREETINGS", 1)
    closed = asyncio.Event()
    bus = await connect_bus("gateway", "gateway-1", on_closed=closed.set)
    await broker.kill()
    await until(lambda: not bus.connected, 2)
    await asyncio.sleep(1.2)  # a broker that is away is no reason to end
    assert not closed.is_set()
    from mesh_chassis.broker_config import new_nkey, write_seed

    write_seed(Path(bus.config.nkey_seed_file), new_nkey()[0])
    await broker.start()
    async with asyncio.timeout(6):
        await closed.wait()


async def test_a_broker_that_was_away_for_long_is_come_back_to(
    broker: Broker, connect_bus: ConnectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It greets before our next attempt: that is no reason to end the process."""
    monkeypatch.setattr(link_module, "HOPELESS_S", 0.2)
    monkeypatch.setattr(link_module, "HEARTBEAT_S", 0.3)
    closed: list[str] = []
    bus = await connect_bus("gateway", "gateway-1", on_closed=lambda: closed.append("x"))
    await broker.kill()
    await until(lambda: not bus.connected, 2)
    await asyncio.sleep(1.0)
    # The next attempt comes after the supervisor has seen the broker greet.
    monkeypatch.setattr(link_module.random, "uniform", lambda low, high: 1.0)
    await asyncio.sleep(1.0)
    await broker.start()
    await until(lambda: bus.connected or bool(closed), 5)
    assert bus.connected
    assert not closed


async def test_own_blocked_loop_is_not_taken_for_a_frozen_broker(
    gateway: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(link_module, "HEARTBEAT_MISS_S", 0.1)
    lost: list[int] = []
    gateway.on_disconnect(lambda: lost.append(1))
    for _ in range(3):
        time.sleep(0.7)  # noqa: ASYNC251 - the point of the test
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    assert gateway.connected
    assert not lost


async def test_closing_while_the_broker_is_away_ends_in_time(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    bus = await connect_bus("gateway", "gateway-1")
    await broker.kill()
    await until(lambda: not bus.connected, 2)
    async with asyncio.timeout(3):
        await bus.close()


async def test_message_published_just_before_close_arrives(
    connect_bus: ConnectBus, runner: Bus
) -> None:
    source = await connect_bus("gateway", "gateway-2")
    heard = asyncio.Event()
    subject = f"mesh.v1.acme.evt.log.{NUID().next().decode()}"

    async def handler(_: object) -> None:
        heard.set()

    listener = await connect_bus("operator", "operator")
    await listener.subscribe("mesh.v1.acme.evt.log.gateway-2", handler)
    assert subject
    await source.publish("mesh.v1.acme.evt.log.gateway-2", b"x" * 500_000)
    await source.close()
    async with asyncio.timeout(2):
        await heard.wait()


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.06])
async def test_closing_in_the_middle_of_a_reconnect_leaves_nothing(
    broker: Broker, connect_bus: ConnectBus, delay_s: float
) -> None:
    """The leak check of the suite is the assertion: no task, no second connection."""
    bus = await connect_bus("gateway", "gateway-1")
    await broker.kill()
    await until(lambda: not bus.connected, 2)
    await broker.start()
    await asyncio.sleep(delay_s)
    async with asyncio.timeout(3):
        await bus.close()
    assert not bus.client.is_connected
