"""A spawner on a real broker, with machines that are real processes with real links."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import subjects
from mcp_proto.contracts.registry import PutAnswer, put, remove
from mcp_proto.contracts.vm_spawner import (
    ListMachines,
    MachineRecord,
    MachineRef,
    MachineView,
    Spawn,
    Wanted,
    list_machines,
    spawn,
    status,
)
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import ServiceSection
from mesh_chassis.service import Service
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from vm_spawner.config import ProcessSection, VmSection, VmSpawnerConfig
from vm_spawner.core.machine import is_vm_id
from vm_spawner.drivers.traces import find_marked
from vm_spawner.network.credential import NkeyCredential
from vm_spawner.network.identity import Identity
from vm_spawner.network.proxy import LinkProxy
from vm_spawner.service import build
from vm_spawner.store.quotas import QuotaStore

ConnectBus = Callable[..., Awaitable[Bus]]
TENANT = "demo-tenant"

ECHO = """
from mesh_sdk.agent import Agent
agent = Agent("{name}")

@agent.tool
def echo(text: str) -> str:
    print("echo", text, flush=True)
    return text

agent.run()
"""


class StaticLink:
    """A real link proxy with a user that the test's broker knows."""

    def __init__(self, proxy: LinkProxy) -> None:
        self._proxy = proxy
        self.connected_at: float | None = None

    async def close(self) -> None:
        await self._proxy.close()


class StaticLinks:
    """As ``network.links``, without tenant-auth: machines are users of the configuration."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.forgotten: list[str] = []

    def know(self, vm_id: str) -> None:
        """Make the broker know this machine."""
        self._broker.seed_for("agent", vm_id)

    async def open(self, path: str, identity: Identity, *, mux: bool) -> StaticLink:
        path_of_seed = Path(self._broker.seed_for("agent", identity.vm_id))
        seed = await asyncio.to_thread(path_of_seed.read_bytes)
        proxy = LinkProxy(
            bus=BusConfig(urls=(self._broker.url,)),
            name=f"vm/{identity.vm_id}",
            credential=NkeyCredential(seed),
        )
        await proxy.listen(path, mux=mux)
        return StaticLink(proxy)

    async def forget(self, vm_id: str) -> None:
        self.forgotten.append(vm_id)


class Spawner:
    """One spawner of a test, and someone who asks it."""

    def __init__(self, service: Service, asker: Bus, root: Path, links: StaticLinks) -> None:
        self.service = service
        self.asker = asker
        self.root = root
        self.links = links

    tenant = TENANT

    @staticmethod
    def source(name: str, text: str = ECHO) -> msgspec.Raw:
        """Configuration with which the guest stage runs this program."""
        config = {
            "source": text.replace("{name}", name),
            "environment": {"MESH_AGENT_ALLOW_UNSIGNED": "true"},
        }
        return msgspec.Raw(msgspec.json.encode(config))

    async def spawn(self, vm_id: str = "", **more: object) -> MachineView:
        ask = Spawn(
            tenant=TENANT,
            vm_id=vm_id,
            agent=vm_id,
            program="agent",
            config=self.source(vm_id),
            isolation=Wanted(min="none", driver="process"),
        )
        ask = msgspec.structs.replace(ask, **more)
        if is_vm_id(ask.vm_id):
            # Now, for a reload of the broker forgets who may still answer whom.
            self.links.know(ask.vm_id)
        return (await self.asker.operation(spawn, ask, timeout_s=10.0)).machine

    async def record(self, vm_id: str) -> MachineRecord:
        ask = MachineRef(tenant=TENANT, vm_id=vm_id)
        return (await self.asker.operation(status, ask, timeout_s=10.0)).record

    async def until(self, vm_id: str, *states: str, timeout_s: float = 20.0) -> MachineRecord:
        """The record once it is in one of these states."""
        found: list[MachineRecord] = []

        async def there() -> bool:
            record = await self.record(vm_id)
            found[:] = [record]
            return record.observed.state in states

        try:
            await eventually(there, timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"not {states} but {found}") from None
        return found[0]

    async def ready(self, vm_id: str, **more: object) -> MachineRecord:
        """A machine that is up."""
        await self.spawn(vm_id, **more)
        record = await self.until(vm_id, "ready", "failed", "stopped", "lost")
        assert record.observed.state == "ready", record.observed
        return record

    async def held(self) -> list[str]:
        """Machines that take of the tenant's quota."""
        store = await QuotaStore.open(self.service.bus)
        return list((await store.held(TENANT)).held)

    async def records(self) -> list[MachineRecord]:
        """All records of the tenant, ended ones too."""
        ask = ListMachines(tenant=TENANT, ended=True, limit=1000)
        answer = await self.asker.operation(list_machines, ask, timeout_s=10.0)
        return [view.record for view in answer.machines]

    def left(self) -> list[str]:
        """What is on the host of any machine."""
        files = [path.name for path in self.root.iterdir()]
        return [*files, *find_marked(self.root)]


def spawner_config(root: Path, instance: str = "vm-1", **vm: object) -> VmSpawnerConfig:
    section = VmSection(state_dir=str(root), min_isolation="none", reconcile_s=60.0, grace_s=3.0)
    return VmSpawnerConfig(
        service=ServiceSection(instance=instance),
        vm=msgspec.structs.replace(section, **vm),
        process=ProcessSection(enabled=True, allow_unsafe=True),
    )


@pytest.fixture
def state() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="vm") as name:
        yield Path(name)


@pytest.fixture
def machine_source() -> Callable[[str], msgspec.Raw]:
    return Spawner.source


@pytest_asyncio.fixture
async def registering(connect_bus: ConnectBus, provision: None) -> AsyncIterator[None]:
    """Agents can register: a program is ready once it is in the catalogue."""
    bus = await connect_bus("registry", "registry-2")

    async def known(_call: Call) -> bytes:
        return msgspec.json.encode(PutAnswer(known=True, revision=1))

    served = [
        Endpoint(
            bus,
            subject=operation.of_tenant(subjects.ANY).on(subjects.ANY).subject,
            queue="registry",
            handler=known,
            name=operation.name,
        )
        for operation in (put, remove)
    ]
    for endpoint in served:
        await endpoint.start()
    yield
    for endpoint in served:
        await endpoint.drain(1.0)


@pytest_asyncio.fixture
async def start_spawner(
    _chosen_broker: Broker, connect_bus: ConnectBus, registering: None, state: Path
) -> AsyncIterator[Callable[..., Awaitable[Spawner]]]:
    async with AsyncExitStack() as stack:

        async def start(instance: str = "vm-1", **changes: object) -> Spawner:
            vm = {name: value for name, value in changes.items() if name in _VM_FIELDS}
            config = spawner_config(state / instance, instance, **vm)
            rest = {name: value for name, value in changes.items() if name not in vm}
            config = msgspec.structs.replace(config, **rest)
            links = StaticLinks(_chosen_broker)

            async def made(service: Service, section: VmSpawnerConfig) -> None:
                await build(service, section, links=links)

            bus = await connect_bus("vm-spawner", instance)
            service = await stack.enter_async_context(in_process(made, config, bus))
            asker = await connect_bus("operator", f"asker-{os.getpid()}")
            return Spawner(service, asker, state / instance, links)

        yield start


_VM_FIELDS = frozenset(field.name for field in msgspec.structs.fields(VmSection))
