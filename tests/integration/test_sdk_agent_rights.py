"""What an agent may do: for its own tenant, and in the name of its caller no more than that one."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.config import GatewayConfig, HttpConfig, KeysConfig, TcpConfig
from gateway.service import build as build_gateway
from mcp_proto import subjects
from mcp_proto.broker_rights import agent_rights
from mcp_proto.codec import encode_request
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.registry import Put, Remove
from mcp_proto.contracts.tenant_auth import (
    KeyCreate,
    KeyRevoke,
    Principal,
    PrincipalPut,
    Rule,
    Tenant,
    TenantPut,
)
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_sdk.agent import Agent, Context
from mesh_sdk.agent.config import AgentConfig, AgentSection
from mesh_sdk.agent.process import attach
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tenant_auth.config import SecurityConfig, TenantAuthConfig
from tenant_auth.service import build as build_tenant_auth
from tool_runner.config import ToolRunnerConfig
from tool_runner.service import build as build_tool_runner

ACME = "acme"


class _Envelope(RequestEnvelope, frozen=True, kw_only=True):
    credential: str = ""

    def to_headers(self) -> dict[str, str]:
        return {**RequestEnvelope.to_headers(self), Header.CREDENTIAL: self.credential}


class Rig:
    """The services of a mesh that asks for credentials, an agent, and a caller with a key."""

    def __init__(self, gateway: Bus, operator: Bus, agent: Bus) -> None:
        self.gateway = gateway
        self.operator = operator
        self.agent = agent
        self.key = ""
        self.key_id = ""

    async def ask(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool as the owner of the key; the result."""
        bus = self.operator
        params = EnvelopeStamp().stamp(
            msgspec.json.encode({"name": f"guide:{tool}", "arguments": arguments})
        )
        request_id = bus.new_request_id()
        body = await bus.call(
            subjects.gateway(ACME, "tools/call"),
            encode_request("tools/call", request_id, params),
            envelope=_Envelope(method="tools/call", request_id=request_id, credential=self.key),
            timeout_s=5.0,
            tenant=ACME,
        )
        answer = msgspec.json.decode(body)
        if "error" in answer:
            raise MeshError.from_object(msgspec.convert(answer["error"], ErrorObject))
        return answer["result"]


def guide(kept: list[Context]) -> Agent:
    """An agent that uses the store for its caller."""
    agent = Agent("guide")

    @agent.tool
    async def keep(key: str, ctx: Context) -> dict:
        kept.append(ctx)
        await ctx.memory.set(key, ctx.principal)
        return {"value": await ctx.memory.get(key)}

    @agent.tool
    async def drop(key: str, ctx: Context) -> bool:
        return await ctx.memory.delete(key)

    return agent


async def _bus(broker: Broker, service: str, instance: str, *, user: str = "") -> Bus:
    config = BusConfig(
        urls=(broker.url,), nkey_seed_file=broker.seed_for(user or service, instance)
    )
    return await Bus.connect(config, service=service, instance=instance)


@pytest_asyncio.fixture
async def rig(broker: Broker, tmp_path: Path) -> AsyncIterator[Rig]:
    for name, text in (
        ("pepper", "p" * 43),
        ("kek", base64.b64encode(os.urandom(32)).decode()),
    ):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    kek = str(tmp_path / "kek")
    kept: list[Context] = []
    async with AsyncExitStack() as stack:

        async def run(build: Any, config: Any, service: str, user: str = "") -> Bus:
            bus = await _bus(broker, service, config.service.instance, user=user)
            await stack.enter_async_context(in_process(build, config, bus))
            return bus

        await run(
            build_registry,
            RegistryConfig(service=ServiceSection(instance="registry-1")),
            "registry",
        )
        security = SecurityConfig(env="test", pepper_file=str(tmp_path / "pepper"), kek_file=kek)
        await run(
            build_tenant_auth,
            TenantAuthConfig(service=ServiceSection(instance="tenant-auth-1"), security=security),
            "tenant-auth",
        )
        await run(
            build_tool_runner,
            ToolRunnerConfig(service=ServiceSection(instance="runner-1")),
            "tool-runner",
        )
        gateway = await run(
            build_gateway,
            GatewayConfig(
                service=ServiceSection(instance="gateway-1"),
                keys=KeysConfig(kek_file=kek),
                http=HttpConfig(port=-1),
                tcp=TcpConfig(port=-1),
            ),
            "gateway",
        )
        described = guide(kept).described()

        async def serve(service: Any, config: AgentConfig) -> None:
            await attach(service, config, described)

        agent = await run(
            serve,
            AgentConfig(
                service=ServiceSection(instance="guide-1"), agent=AgentSection(tenant=ACME)
            ),
            "agent",
            f"agent@{ACME}",
        )
        operator = await _bus(broker, "operator", "operator")
        stack.push_async_callback(operator.close)
        made = Rig(gateway, operator, agent)
        made.key_id, made.key = await _caller(operator)
        await eventually(lambda: _listed(made))
        yield made


async def _caller(operator: Bus) -> tuple[str, str]:
    rules = (
        Rule(effect="allow", pattern="*"),
        Rule(effect="deny", pattern="kv:kv_delete"),
    )
    await operator.operation(tenant_auth.tenant_put, TenantPut(tenant=Tenant(id=ACME, rules=rules)))
    ann = Principal(id="ann", tenant=ACME, roles=("User",))
    await operator.operation(tenant_auth.principal_put, PrincipalPut(principal=ann))
    key = await operator.operation(
        tenant_auth.key_create, KeyCreate(tenant=ACME, principal="ann", label="")
    )
    return key.id, key.key


async def _listed(rig: Rig) -> bool:
    try:
        await rig.ask("keep", key="ready")
    except MeshError:
        return False
    return True


async def test_agent_does_for_its_caller_what_that_one_may_and_nothing_else(rig: Rig) -> None:
    done = await rig.ask("keep", key="a")
    assert done["structuredContent"] == {"value": "ann"}
    with pytest.raises(MeshError) as caught:
        await rig.ask("drop", key="a")
    assert caught.value.kind is ErrorKind.DENIED
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_context_of_a_revoked_key_opens_nothing(rig: Rig) -> None:
    await rig.ask("keep", key="a")
    seen: list[str] = []

    async def passed(context: str) -> dict[str, Any]:
        bus = rig.agent
        request_id = bus.new_request_id()
        params = EnvelopeStamp().stamp(
            msgspec.json.encode({"name": "kv:kv_get", "arguments": {"key": "x"}})
        )
        body = await bus.call(
            subjects.gateway(ACME, "tools/call"),
            encode_request("tools/call", request_id, params),
            envelope=RequestEnvelope(method="tools/call", request_id=request_id, context=context),
            timeout_s=5.0,
            tenant=ACME,
        )
        return msgspec.json.decode(body)

    context = await _context_of_a_call(rig, seen)
    assert "result" in await passed(context)
    await rig.operator.operation(tenant_auth.key_revoke, KeyRevoke(id=rig.key_id))

    async def refused() -> bool:
        try:
            await passed(context)
        except MeshError as error:
            return error.kind is ErrorKind.UNAUTHENTICATED
        return False

    await eventually(refused)
    for broken in (context[:-4] + "AAAA", "x.y.z"):
        with pytest.raises(MeshError) as caught:
            await passed(broken)
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED


async def _context_of_a_call(rig: Rig, seen: list[str]) -> str:
    """The signed context that a server gets, taken from the wire."""

    async def hear(message: Any) -> None:
        token = (message.headers or {}).get(Header.CONTEXT, "")
        if token:
            seen.append(token)

    subscription = await rig.operator.subscribe(f"mesh.v1.{ACME}.call.guide.>", hear)
    await rig.ask("keep", key="b")
    await eventually(lambda: bool(seen))
    await subscription.unsubscribe()
    return seen[0]


async def test_signed_context_is_no_credential_of_a_client(rig: Rig) -> None:
    context = await _context_of_a_call(rig, [])
    rig.key = context
    with pytest.raises(MeshError) as caught:
        await rig.ask("keep", key="a")
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED


async def test_agent_registers_and_removes_servers_of_its_own_tenant_only(rig: Rig) -> None:
    foreign = Put(tenant="other", server="guide", instance="guide-1", hash="0" * 64)
    with pytest.raises(MeshError) as caught:
        await rig.agent.operation(contract.put.of_tenant(ACME).on("guide"), foreign)
    assert caught.value.kind is ErrorKind.DENIED
    for tenant in ("other", "_"):
        with pytest.raises(MeshError) as caught:
            await rig.agent.operation(
                contract.remove.of_tenant(ACME).on("guide"),
                Remove(tenant=tenant, server="guide", instance="guide-1", forget=True),
            )
        assert caught.value.kind is ErrorKind.DENIED
    # The subject of another tenant, or of the platform, is closed by the broker.
    for op in (contract.put.on("guide"), contract.put.of_tenant("other").on("guide")):
        with pytest.raises(MeshError) as caught:
            await rig.agent.operation(op, foreign, timeout_s=1.0)
        assert caught.value.kind in {ErrorKind.DENIED, ErrorKind.DEADLINE}
    for subject in ("mesh.v1.other.call.guide.>", "mesh.v1.other.topic.>"):
        with pytest.raises(MeshError) as caught:
            await rig.agent.subscribe(subject, _nothing)
        assert caught.value.kind is ErrorKind.DENIED


async def test_agent_with_names_registers_no_other_server_of_its_tenant(rig: Rig) -> None:
    rights = agent_rights(ACME, "guide-2", ("guide",))
    put = contract.put.of_tenant(ACME)
    assert put.on("guide").subject in rights.publish
    assert not any(right == put.on(subjects.ANY).subject for right in rights.publish)
    # The registry believes the subject, which the broker has checked, not the body.
    other = Put(tenant=ACME, server="other", instance="guide-2", hash="0" * 64)
    leave = Remove(tenant=ACME, server="other", instance="guide-2", forget=True)
    for operation, params in ((put, other), (contract.remove.of_tenant(ACME), leave)):
        with pytest.raises(MeshError, match="names another server") as caught:
            await rig.agent.operation(operation.on("guide"), params)  # type: ignore[arg-type]
        assert caught.value.kind is ErrorKind.DENIED


async def _nothing(_message: object) -> None: ...


async def test_unsigned_call_is_refused_outside_development(rig: Rig) -> None:
    request_id = rig.operator.new_request_id()
    with pytest.raises(MeshError) as caught:
        await rig.operator.call(
            subjects.call(ACME, "guide", "keep"),
            encode_request("tools/call", request_id, b'{"name":"keep","arguments":{"key":"a"}}'),
            envelope=RequestEnvelope(method="tools/call", name="keep", request_id=request_id),
            timeout_s=5.0,
            tenant=ACME,
        )
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
