"""Credentials of machines: given by tenant-auth, shown by a link proxy, believed by the broker."""

import asyncio
import base64
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import pytest_asyncio

from mcp_proto import subjects
from mcp_proto.contracts import machine_tokens as contract
from mcp_proto.contracts import vm_spawner
from mcp_proto.contracts.machine_tokens import MachineIssue, MachineIssued, MachineRevoke
from mcp_proto.contracts.vm_spawner import MachineRef, Spawn, Stop, Wanted
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.broker_config import new_issuer
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tenant_auth.config import MachinesConfig, SecurityConfig, TenantAuthConfig
from tenant_auth.service import build as build_tenant_auth
from vm_spawner.config import ProcessSection, VmSection, VmSpawnerConfig
from vm_spawner.service import build as build_spawner

ACME = "acme"
ISSUE = MachineIssue(vm_id="vm-a1", tenant=ACME, names=("weather",))
AGENT = """
from mesh_sdk.agent import Agent
agent = Agent("weather")

@agent.tool
def today() -> str:
    return "rain"

agent.run()
"""


class Rig:
    def __init__(self, broker: Broker, operator: Bus, spawner: Bus) -> None:
        self.broker = broker
        self.operator = operator
        self.spawner = spawner

    async def issue(self, ask: MachineIssue = ISSUE) -> MachineIssued:
        return await self.spawner.operation(contract.issue, ask)

    async def connect(self, token: str, **more: Any) -> nats.NATS:
        """As the link proxy: a plain client with this token."""

        async def ignore(_: Exception) -> None: ...

        return await nats.connect(
            self.broker.url,
            token=token,
            allow_reconnect=False,
            connect_timeout=5,
            inbox_prefix=b"_MESH.agent.vm-a1",
            error_cb=ignore,
            **more,
        )


async def refused(url: str, token: str) -> bool:
    """Whether the broker hangs up on this token; in its own words, without a client."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("nats://").split(":"))
    try:
        await reader.readuntil(b"\r\n")
        options = msgspec.json.encode({"auth_token": token, "verbose": False})
        writer.write(b"CONNECT " + options + b"\r\nPING\r\n")
        async with asyncio.timeout(5):
            line = await reader.readline()
        return line.startswith((b"-ERR 'Authorization", b"-ERR 'maximum control line")) or not line
    except ConnectionResetError:
        return True
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    seed, public = new_issuer()
    for name, text in (
        ("pepper", "p" * 43),
        ("kek", base64.b64encode(os.urandom(32)).decode()),
        ("issuer", seed),
    ):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    async with AsyncExitStack() as stack:
        broker = Broker(tmp_path / "broker", in_memory=True, callout_issuer=public)
        stack.callback(broker.remove_store)
        await stack.enter_async_context(broker)

        async def connected(service: str, instance: str) -> Bus:
            config = BusConfig(
                urls=(broker.url,), nkey_seed_file=broker.seed_for(service, instance)
            )
            bus = await Bus.connect(config, service=service, instance=instance)
            stack.push_async_callback(bus.close)
            return bus

        async def run(build: Any, config: Any, service: str) -> None:
            bus = await connected(service, config.service.instance)
            await stack.enter_async_context(in_process(build, config, bus))

        def named(instance: str) -> ServiceSection:
            return ServiceSection(instance=instance)

        await run(build_registry, RegistryConfig(service=named("registry-1")), "registry")
        for n in (1, 2):
            auth = TenantAuthConfig(
                service=named(f"tenant-auth-{n}"),
                security=SecurityConfig(
                    env="test",
                    pepper_file=str(tmp_path / "pepper"),
                    kek_file=str(tmp_path / "kek"),
                ),
                machines=MachinesConfig(issuer_seed_file=str(tmp_path / "issuer")),
            )
            await run(build_tenant_auth, auth, "tenant-auth")
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="vm"))
        spawner = VmSpawnerConfig(
            service=named("vm-1"),
            vm=VmSection(state_dir=state, min_isolation="none", grace_s=3.0),
            process=ProcessSection(enabled=True, allow_unsafe=True),
        )
        await run(build_spawner, spawner, "vm-spawner")
        yield Rig(
            broker, await connected("operator", "operator"), await connected("vm-spawner", "vm-2")
        )


async def test_token_makes_a_user_with_the_rights_of_one_agent(rig: Rig) -> None:
    client = await rig.connect((await rig.issue()).token)
    try:
        answer = await client.request("$SYS.REQ.USER.INFO", timeout=2)
        user = msgspec.json.decode(answer.data)["data"]
        assert user["account"] == "PLATFORM"
        allowed = user["permissions"]["subscribe"]["allow"]
        assert f"mesh.v1.{ACME}.call.weather.> w" in allowed
        assert not any("call.*" in subject or subject == ">" for subject in allowed)
        served = await client.subscribe(f"mesh.v1.{ACME}.call.weather.>", queue="w")
        await client.flush()
        reply = asyncio.create_task(
            rig.operator.request(f"mesh.v1.{ACME}.call.weather.x", b"?", timeout_s=5.0)
        )
        message = await served.next_msg(timeout=5)
        await message.respond(b"rain")
        assert (await reply).payload == b"rain"
    finally:
        await client.close()


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        f"mesh.v1.{ACME}.call.other.>",
        "mesh.v1.other.call.weather.>",
        f"mesh.v1.{ACME}.inst.vm-b2.>",
        "_MESH.gateway.gateway-1.>",
        "_MESH.agent.vm-b2.>",
        "_INBOX.>",
        "$SYS.REQ.USER.AUTH",
        "$KV.mesh_grants.>",
    ],
)
async def test_machine_hears_nothing_that_is_not_its_own(rig: Rig, subject: str) -> None:
    refused: list[Exception] = []

    async def note(error: Exception) -> None:
        refused.append(error)

    client = await nats.connect(
        rig.broker.url,
        token=(await rig.issue()).token,
        allow_reconnect=False,
        error_cb=note,
    )
    try:
        await client.subscribe(subject)
        await client.flush()
        await eventually(lambda: bool(refused))
        assert "permissions violation" in str(refused[0]).lower()
    finally:
        await client.close()


@pytest.mark.parametrize(
    "token",
    ["", "vm", "vm.vm-a1", "vm.vm-a1.", "vm.vm-a1.AAAA", "vm.nobody.AAAA", "vm.*.x", "x" * 4000],
)
async def test_connection_with_a_token_that_was_not_given_is_refused(rig: Rig, token: str) -> None:
    await rig.issue()
    assert await refused(rig.broker.url, token)


async def test_token_that_was_revoked_or_replaced_opens_nothing(rig: Rig) -> None:
    first = await rig.issue()
    second = await rig.issue()
    assert await refused(rig.broker.url, first.token)
    assert not await refused(rig.broker.url, second.token)
    await rig.spawner.operation(contract.revoke, MachineRevoke(vm_id="vm-a1"))
    assert await refused(rig.broker.url, second.token)
    await rig.spawner.operation(contract.revoke, MachineRevoke(vm_id="vm-a1"))


async def test_connection_ends_with_its_credential(rig: Rig) -> None:
    issued = await rig.issue(msgspec.structs.replace(ISSUE, live_s=2))
    ended = asyncio.Event()

    async def end() -> None:
        ended.set()

    client = await rig.connect(issued.token, closed_cb=end)
    async with asyncio.timeout(8):
        await ended.wait()
    assert client.is_closed
    assert await refused(rig.broker.url, issued.token)


@pytest.mark.parametrize(
    "ask",
    [
        msgspec.structs.replace(ISSUE, names=()),
        msgspec.structs.replace(ISSUE, names=("swarm",)),
        msgspec.structs.replace(ISSUE, names=("a b",)),
        msgspec.structs.replace(ISSUE, vm_id="a.b"),
        msgspec.structs.replace(ISSUE, tenant="_"),
        msgspec.structs.replace(ISSUE, live_s=7200),
    ],
)
async def test_tenant_auth_gives_no_token_for(rig: Rig, ask: MachineIssue) -> None:
    with pytest.raises(MeshError) as caught:
        await rig.issue(ask)
    assert caught.value.kind is ErrorKind.PARAMS


async def test_only_spawners_may_ask_for_tokens(rig: Rig) -> None:
    for service, instance in (("gateway", "gateway-1"), ("agent", "agent-1")):
        config = BusConfig(
            urls=(rig.broker.url,), nkey_seed_file=rig.broker.seed_for(service, instance)
        )
        bus = await Bus.connect(config, service=service, instance=instance)
        try:
            with pytest.raises(MeshError) as caught:
                await bus.operation(contract.issue, ISSUE, timeout_s=2.0)
            assert caught.value.kind is ErrorKind.DENIED
        finally:
            await bus.close()


async def test_agent_in_a_machine_serves_with_a_credential_that_it_never_sees(rig: Rig) -> None:
    config = {"source": AGENT, "environment": {"MESH_AGENT_ALLOW_UNSIGNED": "true"}}
    ask = Spawn(
        tenant=ACME,
        vm_id="rainy-1",
        agent="weather",
        program="agent",
        isolation=Wanted(min="none", driver="process"),
        config=msgspec.Raw(msgspec.json.encode(config)),
    )
    await rig.operator.operation(vm_spawner.spawn, ask)
    reference = MachineRef(tenant=ACME, vm_id="rainy-1")

    async def ready() -> bool:
        view = await rig.operator.operation(vm_spawner.status, reference)
        assert view.record.observed.state not in ("failed", "lost"), view.record.observed
        return view.record.observed.state == "ready"

    await eventually(ready, timeout_s=20.0)
    view = await rig.operator.operation(vm_spawner.status, reference)
    assert view.record.observed.timings.connected is not None
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"today"}}'
    reply = await rig.operator.request(subjects.call(ACME, "weather", "today"), body, timeout_s=5.0)
    assert b"rain" in reply.payload
    await rig.operator.operation(
        vm_spawner.stop, Stop(tenant=ACME, vm_id="rainy-1"), timeout_s=20.0
    )
