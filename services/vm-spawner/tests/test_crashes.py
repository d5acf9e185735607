"""kill -9 of the spawner at every point of a machine's life: nothing is left afterwards.

Enumerated, not sampled: ``spawn.points.POINTS`` is the list of every place before and after
something happens outside the process, and a spawner's whole life is watched for points that are
not in it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_proto.contracts import vm_spawner as contract
from mcp_proto.contracts.vm_spawner import MachineRef, Spawn, Wanted
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from vm_spawner.drivers.traces import find_marked
from vm_spawner.spawn.points import POINTS

PROGRAM = Path(__file__).with_name("crashing_spawner.py")
CONFIG = """
[service]
instance = "vm-1"
[bus]
urls = ["{url}"]
nkey_seed_file = "{seed}"
[vm]
state_dir = "{state}"
min_isolation = "none"
grace_s = 2.0
reconcile_s = 3600
[process]
enabled = true
allow_unsafe = true
"""
DIES_S = 60.0
"""On a busy host; it takes two seconds."""


def cgroups_of(pid: int) -> list[str]:
    """Control groups that a spawner made; the next one sweeps those of the dead."""
    return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"mesh-{pid}-*")]


async def started(
    broker: Broker, folder: Path, vm_id: str, point: str
) -> asyncio.subprocess.Process:
    config = folder / "spawner.toml"
    text = CONFIG.format(
        url=broker.url, seed=broker.seed_for("vm-spawner", "vm-1"), state=folder / "vm-1"
    )
    await asyncio.to_thread(config.write_text, text)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(config),
        broker.seed_for("agent", vm_id),
        point,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def ask_for_a_life(asker: Bus, tenant: str, vm_id: str, config: Any, driver: str) -> None:
    """Spawn, wait until ready, stop: as far as the spawner lives to do it."""
    ask = Spawn(
        tenant=tenant,
        vm_id=vm_id,
        agent=vm_id,
        program="agent",
        config=config,
        isolation=Wanted(min="none", driver=driver),
    )
    reference = MachineRef(tenant=tenant, vm_id=vm_id)

    async def asked() -> bool:
        try:
            await asker.operation(contract.spawn, ask, timeout_s=2.0)
        except MeshError:
            return False  # the same id again is the same machine
        return True

    async def ready() -> bool:
        view = await asker.operation(contract.status, reference, timeout_s=2.0)
        return view.record.observed.state == "ready"

    try:
        await eventually(asked, timeout_s=DIES_S)
        await eventually(ready, timeout_s=DIES_S)
        await asker.operation(
            contract.stop, contract.Stop(tenant=tenant, vm_id=vm_id), timeout_s=10.0
        )
    except (MeshError, AssertionError):
        return


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("driver", ["sandbox", "process"])
@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_left_after_the_spawner_was_killed_at(
    point: str,
    driver: str,
    shared_broker: Broker,
    connect_bus: Any,
    registering: None,
    start_spawner: Callable[..., Any],
    state: Path,
    machine_source: Callable[[str], Any],
) -> None:
    vm_id, tenant = f"{driver}-{point.replace('.', '-')}", "demo-tenant"
    process = await started(shared_broker, state, vm_id, point)
    asker = await connect_bus("operator", f"killer-{os.getpid()}")
    life = asyncio.create_task(ask_for_a_life(asker, tenant, vm_id, machine_source(vm_id), driver))
    try:
        async with asyncio.timeout(DIES_S):
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        life.cancel()
        await asyncio.wait({life})
    assert status == -signal.SIGKILL, f"the spawner passed {point} by"
    # Its children go with it, whoever owned them; no reconciler is needed for that.
    await eventually(lambda: not find_marked(state / "vm-1"))

    spawner = await start_spawner("vm-1")  # its reconciler runs once before it takes work

    assert spawner.left() == []
    assert cgroups_of(process.pid) == []
    assert vm_id not in await spawner.held()
    records = [one for one in (await spawner.records()) if one.vm_id == vm_id]
    assert all(one.observed.state in ("stopped", "failed", "lost") for one in records), records
    if point != "reserve.begin":
        assert len(records) == 1
