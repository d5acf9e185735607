"""A spawner from the operation to the process and back."""

import asyncio
from typing import Any

import msgspec
import pytest

from mcp_proto import subjects
from mcp_proto.contracts import vm_spawner as contract
from mcp_proto.contracts.vm_spawner import (
    ListMachines,
    Logs,
    MachineRef,
    MachineView,
    Resources,
    Stop,
    Wanted,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.testing.conditions import eventually
from vm_spawner.config import QuotaSection
from vm_spawner.core.quota import QuotaLimits


async def test_agent_in_a_machine_answers_and_nothing_is_left_after_its_stop(
    start_spawner: Any, connect_bus: Any
) -> None:
    spawner = await start_spawner()
    gateway = await connect_bus("gateway", "gateway-1")
    events: list[str] = []
    lines: list[bytes] = []

    async def on_event(message: Any) -> None:
        events.append(msgspec.json.decode(message.data)["observed"]["state"])

    async def on_line(message: Any) -> None:
        lines.append(message.data)

    await spawner.asker.subscribe(contract.event_subject(spawner.tenant, "first-1"), on_event)
    await spawner.asker.subscribe(contract.log_subject(spawner.tenant, "first-1"), on_line)
    view = await spawner.spawn("first-1")
    assert view.record.observed.state == "admitted"
    record = await spawner.until("first-1", "ready")
    assert (record.observed.driver, record.observed.isolation) == ("process", "none")
    timings = msgspec.structs.asdict(record.observed.timings)
    order = ["image", "network", "created", "running", "hello", "ready"]
    assert [timings[name] for name in order] == sorted(timings[name] for name in order)
    body = msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "hello"}},
        }
    )
    reply = await gateway.request(
        subjects.call(spawner.tenant, "first-1", "echo"), body, timeout_s=10.0
    )
    assert b"hello" in reply.payload, reply.payload
    await eventually(lambda: b"echo hello" in lines)
    logs = await spawner.asker.operation(
        contract.logs, Logs(tenant=spawner.tenant, vm_id="first-1")
    )
    assert "echo hello" in logs.lines
    usage = await spawner.asker.operation(
        contract.status, MachineRef(tenant=spawner.tenant, vm_id="first-1")
    )
    assert usage.memory_bytes
    assert usage.pids

    ended = await spawner.asker.operation(
        contract.stop, Stop(tenant=spawner.tenant, vm_id="first-1"), timeout_s=20.0
    )
    assert ended.record.observed.state == "stopped"
    assert ended.record.observed.code == "asked"
    assert spawner.left() == []
    assert spawner.links.forgotten == ["first-1"]
    await eventually(lambda: events[-1:] == ["stopped"])
    assert events == [
        "requested",
        "admitted",
        "creating",
        "booting",
        "handshake",
        "ready",
        "draining",
        "stopped",
    ]


async def test_agent_in_a_sandbox_is_ready_and_gone_again(start_spawner: Any) -> None:
    spawner = await start_spawner()
    record = await spawner.ready("boxed-1", isolation=Wanted(min="sandbox"))
    assert (record.observed.driver, record.observed.isolation) == ("sandbox", "sandbox")
    ended = await spawner.asker.operation(
        contract.stop, Stop(tenant=spawner.tenant, vm_id="boxed-1"), timeout_s=20.0
    )
    assert ended.record.observed.state == "stopped"
    assert spawner.left() == []


async def test_program_that_ends_before_it_is_ready_fails_with_phase_and_console(
    start_spawner: Any,
) -> None:
    spawner = await start_spawner()
    config = spawner.source("x", "import sys; print('no luck', flush=True); sys.exit(3)")
    await spawner.spawn("dies-1", config=config)
    record = await spawner.until("dies-1", "failed")
    assert (record.observed.code, record.observed.phase) == ("boot_failed", "boot")
    assert "no luck" in record.observed.console
    assert spawner.left() == []
    assert await spawner.held() == []


@pytest.mark.slow
async def test_machine_that_never_says_ready_is_tried_twice_and_undone(start_spawner: Any) -> None:
    spawner = await start_spawner(boot_timeout_s=1.5)
    config = spawner.source("x", "import time\nprint('up', flush=True)\ntime.sleep(60)")
    await spawner.spawn("mute-1", config=config)
    record = await spawner.until("mute-1", "failed")
    assert (record.observed.code, record.observed.phase) == ("boot_timeout", "hello")
    assert record.observed.console.count("up") == 2
    assert spawner.left() == []
    assert await spawner.held() == []


@pytest.mark.slow
async def test_program_that_ends_later_is_noticed_and_cleared(start_spawner: Any) -> None:
    spawner = await start_spawner()
    text = (
        "from mesh_sdk.agent import Agent\nimport os, threading\n"
        "agent = Agent('{name}')\n"
        "threading.Timer(2.0, lambda: os._exit(7)).start()\n"
        "agent.run()\n"
    )
    await spawner.ready("later-1", config=spawner.source("later-1", text))
    record = await spawner.until("later-1", "failed")
    assert (record.observed.code, record.observed.phase) == ("exit", "run")
    assert spawner.left() == []
    assert await spawner.held() == []


@pytest.mark.slow
async def test_life_of_a_machine_ends_with_its_ttl(start_spawner: Any) -> None:
    spawner = await start_spawner()
    await spawner.ready("brief-1", ttl_s=1)
    record = await spawner.until("brief-1", "stopped")
    assert record.observed.code == "ttl"
    assert spawner.left() == []


@pytest.mark.slow
async def test_same_id_twice_is_the_same_machine(start_spawner: Any) -> None:
    spawner = await start_spawner()
    await spawner.ready("twice-1")
    again = await spawner.spawn("twice-1")
    assert again.record.observed.state == "ready"
    assert again.record.observed.epoch == 1
    assert len(await spawner.held()) == 1


async def test_machine_of_another_tenant_is_an_unknown_one(start_spawner: Any) -> None:
    spawner = await start_spawner()
    await spawner.ready("mine-1")
    for ask in (
        (contract.status, MachineRef(tenant="other", vm_id="mine-1")),
        (contract.stop, Stop(tenant="other", vm_id="mine-1")),
        (contract.logs, Logs(tenant="other", vm_id="mine-1")),
        (contract.status, MachineRef(tenant="other", vm_id="never-1")),
        (contract.status, MachineRef(tenant="other", vm_id="../mine-1")),
    ):
        with pytest.raises(MeshError) as caught:
            await spawner.asker.operation(*ask)
        assert (caught.value.kind, caught.value.message) == (
            ErrorKind.NOT_FOUND,
            "unknown machine",
        )
    listed = await spawner.asker.operation(contract.list_machines, ListMachines(tenant="other"))
    assert listed.machines == ()


BAD: tuple[tuple[dict[str, object], str], ...] = (
    ({"resources": Resources(cpu_limit="lots")}, "/resources/cpuLimit"),
    ({"resources": Resources(memory_limit="-1")}, "/resources/memoryLimit"),
    ({"vm_id": "../x"}, "/vmId"),
    ({"vm_id": "x_y"}, "/vmId"),
    ({"vm_id": "x" * 65}, "/vmId"),
    ({"agent": "a b"}, "/agent"),
    ({"tenant": "No"}, "/tenant"),
    ({"ttl_s": -1}, "/ttlS"),
    ({"isolation": Wanted(driver="xen")}, "/isolation/driver"),
    ({"config": msgspec.Raw(b"[]")}, "/config"),
    ({"config": msgspec.Raw(b'{"a":"' + b"x" * 20_000 + b'"}')}, "/config"),
)
IMPOSSIBLE: tuple[tuple[dict[str, object], str], ...] = (
    ({"resources": Resources(gpu_access=True)}, "no_gpu"),
    ({"isolation": Wanted(min="container")}, "isolation"),
    ({"isolation": Wanted(min="none", own_kernel=True)}, "isolation"),
    ({"resources": Resources(memory_limit="900Gi")}, "capacity"),
    ({"program": "nothing"}, "program"),
    ({"image": "nothing", "program": ""}, "image"),
)


async def test_bad_wish_is_refused_with_the_field_named(start_spawner: Any) -> None:
    spawner = await start_spawner()
    for more, where in BAD:
        with pytest.raises(MeshError) as caught:
            await spawner.spawn(**{"vm_id": "bad-1", "agent": "bad"} | more)
        said = (caught.value.kind, caught.value.data.get("where"))
        assert said == (ErrorKind.PARAMS, where), more
    assert spawner.left() == []


async def test_wish_that_cannot_be_met_is_refused_with_the_reason(start_spawner: Any) -> None:
    spawner = await start_spawner()
    for more, reason in IMPOSSIBLE:
        with pytest.raises(MeshError) as caught:
            await spawner.spawn("wish-1", **more)
        assert (caught.value.data["code"], caught.value.data["reason"]) == ("resource", reason)
        if reason == "isolation":
            available = {one["driver"]: one["isolation"] for one in caught.value.data["available"]}
            assert available["process"] == "none"
    assert await spawner.held() == []


@pytest.mark.slow
async def test_quota_is_kept_and_given_back(start_spawner: Any) -> None:
    quota = QuotaSection(default=QuotaLimits(machines=1))
    spawner = await start_spawner(quota=quota)
    await spawner.ready("only-1")
    with pytest.raises(MeshError) as caught:
        await spawner.spawn("more-1")
    told = caught.value.data
    assert (told["reason"], told["limit"], told["current"]) == ("limit", 1, 1)
    await spawner.asker.operation(
        contract.kill, MachineRef(tenant=spawner.tenant, vm_id="only-1"), timeout_s=20.0
    )
    assert await spawner.held() == []
    await spawner.ready("next-1")


@pytest.mark.slow
async def test_spawner_that_is_stopped_ends_its_machines(start_spawner: Any) -> None:
    spawner = await start_spawner()
    await spawner.ready("drained-1")
    await spawner.service.drain(accept_s=0.0, drain_s=5.0)
    assert spawner.left() == []


@pytest.mark.slow
async def test_two_spawners_make_one_machine_of_one_name(start_spawner: Any) -> None:
    one, _two = await start_spawner("vm-1"), await start_spawner("vm-2")
    views = await asyncio.gather(*(one.spawn("race-1") for _ in range(6)), return_exceptions=True)
    made = [view for view in views if isinstance(view, MachineView)]
    assert made, views
    hosts = {view.record.observed.host for view in made}
    assert len(hosts) == 1
    for view in views:
        assert isinstance(view, MachineView) or view.kind is ErrorKind.OVERLOADED, view
    await one.until("race-1", "ready")
    assert len(await one.held()) == 1


@pytest.mark.slow
async def test_machines_go_where_there_is_room(start_spawner: Any) -> None:
    one = await start_spawner("vm-1", host_memory_mib=300)
    await start_spawner("vm-2", host_memory_mib=600)
    await one.ready("big-1", resources=Resources(memory_limit="500Mi"))
    assert (await one.record("big-1")).observed.host == "vm-2"
    with pytest.raises(MeshError) as caught:
        await one.spawn("big-2", resources=Resources(memory_limit="500Mi"))
    assert caught.value.data["reason"] == "capacity"
