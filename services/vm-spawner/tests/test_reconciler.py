"""The reconciler: what nobody owns goes, what lives stays, and a second round changes nothing."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.contracts.vm_spawner import Desired, QuotaRecord, Shape
from mesh_chassis.bucket import KV
from mesh_chassis.testing.conditions import eventually
from vm_spawner.core.machine import moved, requested
from vm_spawner.core.quota import QuotaLimits
from vm_spawner.drivers.traces import find_marked
from vm_spawner.spawn.directories import Directories, Trace
from vm_spawner.store.machines import MachineStore
from vm_spawner.store.quotas import QuotaStore

DESIRED = Desired(program="agent", shape=Shape())


async def left_behind(bus: Any, vm_id: str, host: str, *, tenant: str = "demo-tenant") -> None:
    """Record and share of a machine whose spawner died."""
    store = await MachineStore.open(bus)
    quotas = await QuotaStore.open(bus)
    record = requested(vm_id, tenant, DESIRED, host=host, boot="dead", now_ms=1)
    await store.create(record)
    await quotas.admit(tenant, vm_id, DESIRED.shape, QuotaLimits(machines=1000))
    await store.change(tenant, vm_id, lambda found: moved(found, "admitted", driver="process"))
    await store.close()


@pytest.mark.parametrize("host", ["vm-1", "vm-9"])
async def test_record_of_a_spawner_that_is_gone_is_lost_and_its_share_given_back(
    start_spawner: Any, connect_bus: Any, host: str
) -> None:
    vm_id = f"orphan-{host}"
    await left_behind(await connect_bus("vm-spawner", "vm-2"), vm_id, host)
    spawner = await start_spawner("vm-1")
    record = await spawner.until(vm_id, "lost")
    assert (record.observed.code, record.observed.phase) == ("spawner_lost", "image")
    assert vm_id not in await spawner.held()


async def test_record_of_a_spawner_that_lives_is_left_alone(
    start_spawner: Any, connect_bus: Any
) -> None:
    other = await connect_bus("vm-spawner", "vm-2")

    async def pong(message: Any) -> None:
        await message.respond(b"")

    # No heartbeat, as after a broker that lost its memory; but it answers.
    answering = await other.subscribe("mesh.v1._.inst.vm-2.ping", pong)
    await left_behind(other, "living-1", "vm-2")
    spawner = await start_spawner("vm-1")
    record = await spawner.record("living-1")
    assert record.observed.state == "admitted"
    assert "living-1" in await spawner.held()
    await answering.unsubscribe()


async def test_directories_and_processes_that_nobody_owns_are_removed(
    start_spawner: Any, state: Path
) -> None:
    directories = Directories(state / "vm-1")
    path = directories.make(Trace(vm_id="old-1", tenant="acme", boot="dead"))
    link = directories.link("old-1")
    (path / "junk").write_bytes(b"x" * 1000)
    broken = directories.path("broken-1")
    broken.mkdir()
    (broken / "machine.json").write_bytes(b"{")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import time; time.sleep(60)",
        env={"MESH_VM": "old-1", "MESH_LINK": link.directory},
    )
    await eventually(lambda: "old-1" in find_marked(state / "vm-1"))
    spawner = await start_spawner("vm-1")
    assert spawner.left() == []
    assert sorted(spawner.links.forgotten) == ["broken-1", "old-1"]
    assert await process.wait() == -9


async def test_what_is_no_machine_is_left_alone(start_spawner: Any, state: Path) -> None:
    root = state / "vm-1"
    root.mkdir()
    (root / "notes.txt").write_text("mine")
    (root / "not_an_id").mkdir()
    spawner = await start_spawner("vm-1")
    assert sorted(spawner.left()) == ["not_an_id", "notes.txt"]


async def test_shares_without_a_machine_are_mended(start_spawner: Any, connect_bus: Any) -> None:
    bus = await connect_bus("vm-spawner", "vm-2")
    quotas = await QuotaStore.open(bus)
    await quotas.admit("quota-tenant", "ghost-1", Shape(), QuotaLimits())
    kv = KV.bind(bus, buckets.VM_QUOTA)
    entry = await kv.latest("quota-tenant")
    held = msgspec.json.decode(entry.value, type=QuotaRecord)
    aged = {name: msgspec.structs.replace(one, at_ms=1) for name, one in held.held.items()}
    await kv.put("quota-tenant", msgspec.json.encode(msgspec.structs.replace(held, held=aged)))
    await start_spawner("vm-1")
    assert (await quotas.held("quota-tenant")).held == {}


def test_state_directory_that_is_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="too long"):
        Directories(tmp_path / ("x" * 80))
    assert not (tmp_path / ("x" * 80)).exists()
