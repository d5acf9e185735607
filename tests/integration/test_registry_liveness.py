"""Who is alive, on a real broker: deaths, graceful ends, mass expiry, forgetting, restarts."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets, catalogs
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts.registry import Catalog, InstanceRecord, Put, ServerStatus
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import LivenessConfig, RegistryConfig
from registry.service import build

TTL_S = 1.0


class Runner:
    """A runner as the registry sees it: heartbeats under its own rights, and answers to pings."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._beating: asyncio.Task[None] | None = None

    async def begin(self, *servers: str, declared: tuple[str, ...] = ()) -> None:
        await InstanceEndpoint.of(self.bus).start()
        record = InstanceRecord(
            service="tool-runner",
            instance=self.bus.instance,
            version="1",
            servers=dict.fromkeys(servers, "0" * 64),
            declared=declared,
        )
        self._beating = asyncio.create_task(self._beat(msgspec.json.encode(record)))

    async def _beat(self, value: bytes) -> None:
        kv = KV.bind(self.bus, buckets.INSTANCES)
        while True:
            if self.bus.connected:
                await kv.put(f"tool-runner.{self.bus.instance}", value, ttl_s=TTL_S)
            await asyncio.sleep(TTL_S / 4)

    async def fall_silent(self) -> None:
        """Stop beating but go on answering pings."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])

    async def die(self) -> None:
        await self.fall_silent()
        await self.bus.close()


class Mesh:
    def __init__(self, operator: Bus) -> None:
        self.operator = operator
        self.runners: list[Runner] = []

    async def add(self, bus: Bus, *servers: str, declared: tuple[str, ...] = ()) -> Runner:
        runner = Runner(bus)
        self.runners.append(runner)
        await runner.begin(*servers, declared=declared)
        return runner

    async def put(self, server: str, *, tenant: str = "_") -> None:
        made = Catalog(tenant=tenant, server=server)
        made = msgspec.structs.replace(made, hash=catalogs.catalog_hash(made))
        await self.operator.operation(
            contract.put.on(server),
            Put(tenant=tenant, server=server, instance="runner-1", hash=made.hash, catalog=made),
        )

    async def rows(self) -> dict[str, ServerStatus]:
        answer = await self.operator.operation(contract.list_servers, contract.ListServers())
        return {one.server: one for one in answer.servers}

    async def state(self, server: str) -> str:
        rows = await self.rows()
        return rows[server].state if server in rows else "absent"

    async def becomes(self, server: str, state: str, *, timeout_s: float = 5.0) -> None:
        async def holds() -> bool:
            return await self.state(server) == state

        await eventually(holds, timeout_s=timeout_s, what=f"{server} is {state}")


def config_of(name: str = "registry-1", **fields: float) -> RegistryConfig:
    return RegistryConfig(
        service=ServiceSection(instance=name), liveness=LivenessConfig(ttl_s=TTL_S, **fields)
    )


@pytest_asyncio.fixture
async def mesh(broker, connect_bus) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        bus = await connect_bus("registry", "registry-1")
        config = config_of(forget_after_s=4 * TTL_S)
        await stack.enter_async_context(in_process(build, config, bus))
        made = Mesh(await connect_bus("operator", "operator"))
        yield made
        for runner in made.runners:
            await runner.fall_silent()


async def test_server_of_a_dead_instance_is_down_but_stays_listed(mesh: Mesh, connect_bus) -> None:
    await mesh.put("notes")
    assert await mesh.state("notes") == "down"
    one = await mesh.add(await connect_bus("tool-runner", "runner-1"), "_.notes")
    two = await mesh.add(await connect_bus("tool-runner", "runner-2"), "_.notes")
    await mesh.becomes("notes", "running")

    async def both() -> bool:
        return (await mesh.rows())["notes"].instances == ("runner-1", "runner-2")

    await eventually(both)
    await one.die()

    async def second_alone() -> bool:
        return (await mesh.rows())["notes"].instances == ("runner-2",)

    await eventually(second_alone)
    await two.die()
    await mesh.becomes("notes", "down")


async def test_server_that_never_registered_is_listed_and_can_be_restarted(
    mesh: Mesh, connect_bus
) -> None:
    restart = contract.RestartServer(name="broken")
    with pytest.raises(MeshError, match="no server broken"):
        await mesh.operator.operation(contract.server_restart, restart)
    await mesh.add(await connect_bus("tool-runner", "runner-1"), declared=("_.broken",))
    await mesh.becomes("broken", "down")
    row = (await mesh.rows())["broken"]
    assert (row.defined, row.tools, row.instances) == ("config", 0, ())
    await mesh.operator.operation(contract.server_restart, restart)
    kv = await KV.open(mesh.operator, buckets.SERVERS)
    assert await kv.get(contract.restart_key("_", "broken")) is not None


async def test_instance_that_purges_its_key_is_gone_at_once(mesh: Mesh, connect_bus) -> None:
    await mesh.put("notes")
    runner = await mesh.add(await connect_bus("tool-runner", "runner-1"), "_.notes")
    await mesh.becomes("notes", "running")
    await runner.fall_silent()
    await KV.bind(runner.bus, buckets.INSTANCES).purge("tool-runner.runner-1")
    await runner.bus.close()
    await mesh.becomes("notes", "down", timeout_s=2 * TTL_S)


async def test_silent_instance_that_answers_pings_keeps_its_servers(
    mesh: Mesh, connect_bus
) -> None:
    await mesh.put("notes")
    runner = await mesh.add(await connect_bus("tool-runner", "runner-1"), "_.notes")
    await mesh.becomes("notes", "running")
    await runner.fall_silent()
    kv = await KV.open(mesh.operator, buckets.INSTANCES)

    async def key_expired() -> bool:
        return await kv.get("tool-runner.runner-1") is None

    await eventually(key_expired)
    for _ in range(20):
        assert await mesh.state("notes") == "running"
        await asyncio.sleep(0.02)
    await runner.bus.close()
    await mesh.becomes("notes", "down")


@pytest.mark.slow
async def test_broker_outage_longer_than_the_heartbeat_buries_nobody(
    mesh: Mesh, broker, connect_bus
) -> None:
    names = [f"s{n}" for n in range(3)]
    for n, name in enumerate(names):
        await mesh.put(name)
        await mesh.add(await connect_bus("tool-runner", f"runner-{n + 1}"), f"_.{name}")
    for name in names:
        await mesh.becomes(name, "running")
    # One of them does not come back: it is kept through the freeze and buried afterwards.
    await mesh.runners[2].die()
    await broker.stop()
    await asyncio.sleep(1.5 * TTL_S)  # the outage itself is what is tested
    await broker.start()
    await eventually(lambda: mesh.operator.connected, timeout_s=10)
    await serves(mesh.operator)
    deadline = asyncio.get_running_loop().time() + 2 * TTL_S
    while asyncio.get_running_loop().time() < deadline:
        rows = await mesh.rows()
        assert [rows[name].state for name in names[:2]] == ["running", "running"]
        await asyncio.sleep(0.05)
    await mesh.becomes("s2", "down", timeout_s=10)
    # The memory bucket was made anew by the registry: heartbeats land again.
    kv = await KV.open(mesh.operator, buckets.INSTANCES)

    async def beats() -> bool:
        return await kv.get("tool-runner.runner-1") is not None

    await eventually(beats, timeout_s=10)


@pytest.mark.slow
async def test_catalogue_nobody_serves_is_forgotten_and_one_with_a_definition_is_not(
    mesh: Mesh, connect_bus
) -> None:
    for name in ("served", "defined", "lonely"):
        await mesh.put(name)
    await mesh.add(await connect_bus("tool-runner", "runner-1"), "_.served")
    definition = contract.ServerDefinition(name="late", command="x")
    await mesh.operator.operation(contract.server_put, contract.ServerPut(definition=definition))
    await mesh.put("late")
    await mesh.becomes("lonely", "absent", timeout_s=15)
    rows = await mesh.rows()
    assert rows["served"].state == "running"
    assert rows["late"].state == "down"
    assert rows["late"].hash


Spawn = Callable[[str], Awaitable[asyncio.subprocess.Process]]


@pytest_asyncio.fixture
async def spawn(broker, tmp_path: Path) -> AsyncIterator[Spawn]:
    """Start real registry processes; what still runs at the end is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(name: str) -> asyncio.subprocess.Process:
        path = tmp_path / f"{name}.toml"
        seed = broker.seed_for("registry", name)
        path.write_text(
            f'[service]\ninstance = "{name}"\naccept_s = 0.0\n'
            f'[bus]\nurls = ["{broker.url}"]\nnkey_seed_file = "{seed}"\n'
            f'[log]\nfile = "{tmp_path / name}.log"\n'
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "registry", "--config", str(path)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stopped(process: asyncio.subprocess.Process) -> int:
    process.terminate()
    return await asyncio.wait_for(process.wait(), 15)


async def test_registry_process_restarted_keeps_its_state_and_two_of_them_share_it(
    broker, connect_bus, spawn: Spawn
) -> None:
    operator = await connect_bus("operator", "operator")
    mesh = Mesh(operator)
    first = await spawn("registry-1")
    await serves(operator)
    await mesh.put("notes")
    second = await spawn("registry-2")
    assert await stopped(first) == 0
    await serves(operator)
    assert await mesh.state("notes") == "down"
    second.kill()
    await second.wait()
    third = await spawn("registry-1")
    await serves(operator)
    assert await mesh.state("notes") == "down"
    assert await stopped(third) == 0


async def serves(operator: Bus) -> None:
    async def answers() -> bool:
        try:
            await operator.operation(contract.list_servers, contract.ListServers(), timeout_s=1)
        except MeshError:
            return False
        return True

    await eventually(answers, timeout_s=15)
