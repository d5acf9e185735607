"""A service process starts, drains and leaves with the code its supervisor understands."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from mcp_proto import buckets, subjects
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.broker_config import new_nkey
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually

TOY = Path(__file__).parent / "toy_service.py"
REQUEST = b'{"jsonrpc":"2.0","id":"1","method":"tools/call"}'


class Toy:
    """The toy service as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._changed = asyncio.Condition()
        self._reader = asyncio.get_running_loop().create_task(self._read())
        self.errors = asyncio.get_running_loop().create_task(self._read_errors())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._changed:
                self.said.append(line.decode().rstrip())
                self._changed.notify_all()

    async def _read_errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def says(self, text: str) -> None:
        async with asyncio.timeout(15), self._changed:
            await self._changed.wait_for(lambda: text in self.said)

    async def ends(self, *, within_s: float = 20) -> tuple[int, str]:
        """Exit code and what it wrote to stderr."""
        async with asyncio.timeout(within_s):
            code = await self.process.wait()
            await self._reader
            return code, await self.errors

    def logged(self, stderr: str) -> list[str]:
        return [json.loads(line)["msg"] for line in stderr.splitlines()]


Start = Callable[..., Awaitable[Toy]]


@pytest.fixture
async def start(broker, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Toy] = []

    async def start(*arguments: str, extra: str = "", **env: str) -> Toy:
        path = tmp_path / "toy.toml"
        path.write_text(
            f"""
            [service]
            instance = "runner-1"
            accept_s = 0.05
            drain_s = 5
            [bus]
            urls = ["{broker.url}"]
            nkey_seed_file = "{broker.seed_for("tool-runner", "runner-1")}"
            [toy]
            release = "{tmp_path / "release"}"
            {extra}
            """
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(TOY), *(arguments or ("--config", str(path))),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **env},
        )  # fmt: skip
        started.append(Toy(process))
        return started[-1]

    yield start
    for toy in started:
        if toy.process.returncode is None:
            toy.process.kill()
        await toy.ends()


async def call(bus: Bus, tool: str, payload: bytes = REQUEST, timeout_s: float = 15) -> bytes:
    return await bus.call(
        subjects.call("t", "toy", tool),
        payload,
        envelope=RequestEnvelope(method="tools/call", name=tool),
        timeout_s=timeout_s,
        tenant="t",
    )


async def refused(bus: Bus) -> MeshError:
    """The first refusal: the moment at which the endpoint has left the queue group."""
    async with asyncio.timeout(5):
        while True:
            try:
                await call(bus, "echo", timeout_s=1)
            except MeshError as error:
                return error


def send(toy: Toy, number: signal.Signals = signal.SIGTERM) -> None:
    toy.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_service_finishes_a_running_call_and_refuses_new_ones_when_it_drains(
    start: Start, connect_bus, tmp_path: Path, number: signal.Signals
) -> None:
    toy = await start()
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, "slow"))
    await toy.says("call slow")
    send(toy, number)
    await toy.says("drain")
    refusal = await refused(bus)
    assert refusal.outcome is Outcome.NOT_EXECUTED
    assert not running.done()
    (tmp_path / "release").touch()
    assert await running == b'"done"'
    code, errors = await toy.ends()
    assert code == 0
    assert toy.said[-2:] == ["stop 2", "stop 1"]
    messages = toy.logged(errors)
    assert f"stopping on {number.name}" in messages
    assert messages[-1] == "stopped"


async def test_service_answers_calls_that_outlast_the_drain_as_unknown(
    start: Start, connect_bus
) -> None:
    toy = await start(MESH_SERVICE_DRAIN_S="0.3")
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, "stuck"))
    await toy.says("call stuck")
    send(toy)
    with pytest.raises(MeshError) as caught:
        await running
    assert caught.value.kind is ErrorKind.LOST
    assert caught.value.outcome is Outcome.UNKNOWN
    assert (await toy.ends())[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["stubborn", "thread"])
async def test_service_leaves_although_a_handler_ignores_that_it_was_stopped(
    start: Start, connect_bus, tool: str
) -> None:
    toy = await start(MESH_SERVICE_DRAIN_S="0.3")
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, tool))
    await toy.says(f"call {tool}")
    send(toy)
    with pytest.raises(MeshError) as caught:
        await running
    assert caught.value.outcome is Outcome.UNKNOWN
    code, errors = await toy.ends()
    assert code == 0
    assert toy.logged(errors)[-1] == "something ignores that it was stopped, leaving"


async def test_service_stops_at_once_but_answers_on_a_second_signal(
    start: Start, connect_bus
) -> None:
    toy = await start(MESH_SERVICE_DRAIN_S="60")
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, "stuck"))
    await toy.says("call stuck")
    send(toy)
    await toy.says("drain")
    send(toy)
    with pytest.raises(MeshError) as caught:
        await running
    assert caught.value.kind is ErrorKind.LOST
    code, errors = await toy.ends()
    assert code == 128 + signal.SIGTERM
    assert toy.said[-2:] == ["stop 2", "stop 1"]
    assert "stopping at once on a second SIGTERM" in toy.logged(errors)


async def test_service_says_it_drains_and_leaves_no_record_behind(
    start: Start, broker, connect_bus, tmp_path: Path
) -> None:
    instances = await KV.ensure(await connect_bus("registry", "registry-1"), buckets.INSTANCES)
    seen: asyncio.Queue[bytes | None] = asyncio.Queue()
    watch = await instances.watch(on_entry=lambda _key, value, _rev: seen.put_nowait(value))
    toy = await start()
    async with asyncio.timeout(10):
        record = json.loads(await seen.get() or b"")
        assert (record["instance"], record["slots"]) == ("runner-1", 4)
        assert "draining" not in record
        bus = await connect_bus("gateway", "gateway-1")
        running = asyncio.get_running_loop().create_task(call(bus, "slow"))
        await toy.says("call slow")
        send(toy)
        record = json.loads(await seen.get() or b"")
        assert (record["draining"], record["inflight"]) == (True, 1)
        (tmp_path / "release").touch()
        await running
        assert await seen.get() is None
    await toy.ends()
    await watch.stop()


async def test_service_is_found_and_pinged_by_its_instance(start: Start, connect_bus) -> None:
    toy = await start()
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    pong = await bus.request(subjects.instance("_", "runner-1", "ping"), timeout_s=2)
    assert pong.headers["Mesh-Instance"] == "runner-1"
    async with asyncio.timeout(5):
        info = await bus.request("$SRV.INFO.tool-runner", timeout_s=2)
    found = json.loads(info.payload)
    assert (found["name"], found["id"], found["version"]) == ("tool-runner", "runner-1", "1.0.0")
    assert [one["subject"] for one in found["endpoints"]] == ["mesh.v1.*.call.toy.*"]
    send(toy)
    await toy.ends()


async def test_service_exits_78_with_one_line_when_its_configuration_is_wrong(
    start: Start, tmp_path: Path
) -> None:
    toy = await start(extra="fualt = 'x'")
    code, errors = await toy.ends()
    assert code == 78
    assert errors == (
        f"tool-runner: configuration error: {tmp_path / 'toy.toml'}: toy.fualt: "
        "unknown key; did you mean fault? (known here: release, fault, hang_s)\n"
    )


async def test_service_exits_78_when_building_it_finds_the_configuration_wrong(
    start: Start,
) -> None:
    toy = await start(MESH_TOY_FAULT="config")
    code, errors = await toy.ends()
    assert code == 78
    assert errors.splitlines()[-1] == ("tool-runner: configuration error: toy.fault: asked for")


async def test_service_exits_70_with_a_trace_when_building_it_fails(start: Start) -> None:
    code, errors = await (await start(MESH_TOY_FAULT="crash")).ends()
    assert code == 70
    failed = [json.loads(line) for line in errors.splitlines()]
    assert any("ValueError: asked for" in line.get("error", "") for line in failed)


async def test_check_config_says_ok_without_a_broker(start: Start, tmp_path: Path) -> None:
    await (await start("--help")).ends()
    path = tmp_path / "toy.toml"
    toy = await start("--config", str(path), "--check-config", MESH_BUS_URLS="nats://127.0.0.1:1")
    assert await toy.ends() == (0, "")
    assert toy.said == [f"{path}: ok"]
    toy = await start("--config", str(path), "--check-config", MESH_SERVICE_INSTANCE="a b")
    code, errors = await toy.ends()
    assert code == 78
    assert "environment variable MESH_SERVICE_INSTANCE: service.instance" in errors


async def test_service_exits_75_when_there_is_no_broker(start: Start) -> None:
    toy = await start(MESH_BUS_URLS="nats://127.0.0.1:1", MESH_BUS_CONNECT_TIMEOUT_S="0.3")
    code, errors = await toy.ends()
    assert code == 75
    assert "cannot connect" in errors
    assert "Traceback" not in errors


async def test_service_stops_on_a_signal_while_it_still_waits_for_the_broker(
    start: Start, broker
) -> None:
    broker.pause()
    try:
        toy = await start(MESH_BUS_CONNECT_TIMEOUT_S="30")
        async with asyncio.timeout(10):
            # The handlers are in place once the process has asked the kernel for its loop.
            while not _catches_sigterm(toy.process.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        send(toy)
        assert (await toy.ends())[0] == 0
    finally:
        broker.resume()


def _catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


async def test_service_exits_75_when_its_connection_is_closed_for_good(
    start: Start, connect_bus
) -> None:
    toy = await start()
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    with pytest.raises(MeshError) as caught:
        await call(bus, "close", timeout_s=5)
    assert caught.value.outcome is Outcome.UNKNOWN
    code, errors = await toy.ends()
    assert code == 75
    assert "leaving to be started again" in toy.logged(errors)
    assert toy.said[-2:] == ["stop 2", "stop 1"]
    assert "drain" not in toy.said


async def test_service_exits_75_when_its_event_loop_hangs(start: Start, connect_bus) -> None:
    toy = await start(MESH_TOY_HANG_S="0.5")
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, "block", b"30"))
    code, errors = await toy.ends()
    assert code == 75
    assert "the event loop is hung" in errors
    assert "toy_service.py" in errors, "the stack says where it hangs"
    with pytest.raises(MeshError) as caught:
        await running
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.slow
async def test_service_exits_75_when_the_broker_no_longer_knows_its_key(
    start: Start, broker
) -> None:
    toy = await start()
    await toy.says("ready")
    await broker.stop()
    # The broker comes back but knows this key no more: a rotation that went wrong.
    _replace_key(broker, "tool-runner", "runner-1")
    await broker.start()
    # 15 s of being sent away, and then six looks at a broker that greets: see ``Link``.
    code, errors = await toy.ends(within_s=45)
    assert code == 75
    assert "leaving to be started again" in toy.logged(errors)
    assert toy.said[-2:] == ["stop 2", "stop 1"]
    assert "drain" not in toy.said


def _replace_key(broker: Broker, service: str, instance: str) -> None:
    users = broker._users
    _, public = new_nkey()
    users[service, instance] = msgspec.structs.replace(users[service, instance], public_nkey=public)


async def test_service_survives_a_broker_outage_and_serves_again(
    start: Start, broker, connect_bus
) -> None:
    toy = await start()
    await toy.says("ready")
    await broker.stop()
    await broker.start()
    bus = await connect_bus("gateway", "gateway-1")
    async with asyncio.timeout(15):
        while True:
            try:
                assert await call(bus, "echo", timeout_s=2) == b'"done"'
                break
            except MeshError:
                continue
    send(toy)
    assert (await toy.ends())[0] == 0


async def test_service_exits_70_in_order_when_a_fatal_part_fails(start: Start, connect_bus) -> None:
    toy = await start()
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    assert await call(bus, "die") == b'"done"'
    code, errors = await toy.ends()
    assert code == 70
    assert toy.said[-3:] == ["drain", "stop 2", "stop 1"]
    assert "task part of runner-1 failed" in toy.logged(errors)


async def is_ready(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/readyz")).json()["ready"])


async def test_ops_listener_shows_health_and_a_drain_takes_readiness_first(
    start: Start, connect_bus, tmp_path: Path, unused_tcp_port: int
) -> None:
    toy = await start(MESH_OPS_PORT=str(unused_tcp_port))
    await toy.says("ready")
    bus = await connect_bus("gateway", "gateway-1")
    running = asyncio.get_running_loop().create_task(call(bus, "slow"))
    await toy.says("call slow")
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False
    ) as client:
        health = (await client.get("/healthz")).json()
        assert health["checks"] == dict.fromkeys(("nats", "clock", "toy"), "healthy")
        await eventually(lambda: is_ready(client), what="ready, though no registry is there")
        metrics = (await client.get("/metrics")).text
        assert "mesh_inflight 1.0" in metrics
        assert "mesh_bus_connected 1.0" in metrics
        send(toy)
        await toy.says("drain")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
        assert (await client.get("/healthz")).status_code == 200
    (tmp_path / "release").touch()
    await running
    assert (await toy.ends())[0] == 0
