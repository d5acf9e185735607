"""Delegated grants on a real mesh: a task acts for its submitter, no longer and no further."""

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
from mcp_proto import buckets, subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts import tenant_auth as contract
from mcp_proto.contracts.tenant_auth import (
    CallerContext,
    Delegate,
    Delegated,
    Exchange,
    Exchanged,
    KeyCreate,
    KeyRevoke,
    Login,
    Logout,
    Principal,
    PrincipalPut,
    RevokeGrant,
    Rule,
    Tenant,
    TenantPut,
)
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.callerctx import LIFE_MS, ContextSigner, ContextVerifier, load_kek
from mesh_chassis.config import ServiceSection
from mesh_chassis.keyring import KeyRing
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tenant_auth.config import SecurityConfig, TenantAuthConfig
from tenant_auth.service import build as build_tenant_auth
from tool_runner.config import ToolRunnerConfig
from tool_runner.service import build as build_tool_runner

ACME = "acme"
MINUTE_MS = 60_000


class Rig:
    """A mesh that asks for credentials; who submits, who owns the task, who runs its steps."""

    def __init__(self, operator: Bus, coordinator: Bus, host: Bus, gateway: Bus) -> None:
        self.operator = operator
        self.coordinator = coordinator
        self.host = host
        self.gateway = gateway
        self.ring = KeyRing()
        self.kek = b""
        self.key_id = ""
        self.key = ""

    def now_ms(self) -> int:
        return self.operator.server_now_ms()

    def context(
        self, *, cid: str = "", roles: tuple[str, ...] = ("User",), life_ms: int = LIFE_MS
    ) -> str:
        """As a gateway signs it for the submitter."""
        signer = ContextSigner(self.ring, self.kek, clock_ms=self.now_ms)
        return signer.sign(
            CallerContext(
                tid=ACME,
                sub="ann",
                roles=roles,
                exp=self.now_ms() + life_ms,
                iss="g",
                cid=cid or f"key:{self.key_id}",
            )
        )

    def claims(self, token: str) -> CallerContext:
        return ContextVerifier(self.ring, clock_ms=self.now_ms).verify(token)

    async def delegate(
        self, task: str = "task_1", *, context: str = "", deadline_ms: int = 0
    ) -> Delegated:
        params = Delegate(
            context=context or self.context(),
            task=task,
            deadline_ms=deadline_ms or self.now_ms() + 60 * MINUTE_MS,
        )
        return await self.coordinator.operation(contract.delegate, params)

    async def exchange(self, grant: str) -> Exchanged:
        return await self.coordinator.operation(contract.exchange, Exchange(grant=grant))

    async def call(self, context: str, tool: str, **arguments: object) -> dict[str, Any]:
        """What a host does for an agent: a tool call with the context of a work item."""
        request_id = self.host.new_request_id()
        params = EnvelopeStamp().stamp(
            msgspec.json.encode({"name": f"kv:{tool}", "arguments": arguments})
        )
        body = await self.host.call(
            subjects.gateway(ACME, "tools/call"),
            encode_request("tools/call", request_id, params),
            envelope=RequestEnvelope(method="tools/call", request_id=request_id, context=context),
            timeout_s=5.0,
            tenant=ACME,
        )
        answer = msgspec.json.decode(body)
        if "error" in answer:
            raise MeshError.from_object(msgspec.convert(answer["error"], ErrorObject))
        return answer["result"]

    async def principal(self, *roles: str, enabled: bool = True) -> None:
        ann = Principal(id="ann", tenant=ACME, roles=roles or ("User",), enabled=enabled)
        await self.operator.operation(contract.principal_put, PrincipalPut(principal=ann))

    async def tenant(self, *, enabled: bool = True) -> None:
        rules = (
            Rule(effect="allow", pattern="*"),
            Rule(effect="deny", pattern="kv:kv_delete"),
        )
        tenant = Tenant(id=ACME, rules=rules, enabled=enabled)
        await self.operator.operation(contract.tenant_put, TenantPut(tenant=tenant))

    async def exchange_refused(self, grant: str) -> bool:
        try:
            await self.exchange(grant)
        except MeshError as error:
            return error.kind is ErrorKind.UNAUTHENTICATED
        return False

    async def call_refused(self, context: str) -> bool:
        try:
            await self.call(context, "kv_get", key="k")
        except MeshError as error:
            return error.kind is ErrorKind.UNAUTHENTICATED
        return False


async def _bus(broker: Broker, service: str, instance: str) -> Bus:
    config = BusConfig(urls=(broker.url,), nkey_seed_file=broker.seed_for(service, instance))
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
    security = SecurityConfig(env="test", pepper_file=str(tmp_path / "pepper"), kek_file=kek)
    async with AsyncExitStack() as stack:

        async def run(build: Any, config: Any, service: str) -> Bus:
            bus = await _bus(broker, service, config.service.instance)
            await stack.enter_async_context(in_process(build, config, bus))
            return bus

        def named(instance: str) -> ServiceSection:
            return ServiceSection(instance=instance)

        async def connected(service: str, instance: str) -> Bus:
            bus = await _bus(broker, service, instance)
            stack.push_async_callback(bus.close)
            return bus

        await run(build_registry, RegistryConfig(service=named("registry-1")), "registry")
        for n in (1, 2):
            auth = TenantAuthConfig(service=named(f"tenant-auth-{n}"), security=security)
            await run(build_tenant_auth, auth, "tenant-auth")
        runner = ToolRunnerConfig(service=named("runner-1"))
        await run(build_tool_runner, runner, "tool-runner")
        gateway = GatewayConfig(
            service=named("gateway-1"),
            keys=KeysConfig(kek_file=kek),
            http=HttpConfig(port=-1),
            tcp=TcpConfig(port=-1),
        )
        made = Rig(
            await connected("operator", "operator"),
            await connected("swarm-coordinator", "swarm-1"),
            await connected("agent-host", "agent-host-1"),
            await run(build_gateway, gateway, "gateway"),
        )
        made.ring = await KeyRing.open(made.operator)
        stack.push_async_callback(made.ring.close)
        made.kek = load_kek(kek)
        await made.tenant()
        await eventually(lambda: _key(made))
        await eventually(lambda: _works(made))
        yield made


async def _key(rig: Rig) -> bool:
    """Two replicas: the one that answers may not have seen what the other wrote."""
    try:
        await rig.principal()
        params = KeyCreate(tenant=ACME, principal="ann", label="")
        key = await rig.operator.operation(contract.key_create, params)
    except MeshError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return False
        raise
    rig.key_id, rig.key = key.id, key.key
    return True


async def _works(rig: Rig) -> bool:
    try:
        await rig.call(rig.context(), "kv_set", key="k", value="1")
    except MeshError:
        return False
    return True


async def test_task_calls_tools_as_its_submitter_after_the_submission_has_expired(
    rig: Rig,
) -> None:
    submission = rig.context(life_ms=500)
    granted = await rig.delegate(context=submission)
    await eventually(lambda: rig.call_refused(submission), timeout_s=5)
    exchanged = await rig.exchange(granted.grant)
    claims = rig.claims(exchanged.context)
    assert (claims.tid, claims.sub, claims.roles) == (ACME, "ann", ("User",))
    assert (claims.chain, claims.gid) == (("task_1",), granted.grant)
    assert rig.now_ms() < claims.exp <= rig.now_ms() + LIFE_MS + 1_000  # clocks of two processes
    assert exchanged.expires_ms == claims.exp
    assert not (await rig.call(exchanged.context, "kv_get", key="k")).get("isError")
    with pytest.raises(MeshError) as caught:
        await rig.call(exchanged.context, "kv_delete", key="k")
    assert caught.value.kind is ErrorKind.DENIED


async def test_grant_of_a_login_stands_on_its_key_and_survives_the_logout(rig: Rig) -> None:
    login = await rig.gateway.operation(contract.login, Login(credential=rig.key))
    login_id = login.token.split("_")[1]
    granted = await rig.delegate(context=rig.context(cid=f"login:{login_id}"))
    await rig.gateway.operation(contract.logout, Logout(token=login.token))
    context = (await rig.exchange(granted.grant)).context
    assert rig.claims(context).cid == f"key:{rig.key_id}"
    assert not await rig.call_refused(context)


async def test_revoked_key_ends_the_grant_and_what_was_exchanged_for_it(rig: Rig) -> None:
    granted = await rig.delegate()
    context = (await rig.exchange(granted.grant)).context
    assert not await rig.call_refused(context)
    await rig.operator.operation(contract.key_revoke, KeyRevoke(id=rig.key_id))
    await eventually(lambda: rig.exchange_refused(granted.grant))
    await eventually(lambda: rig.call_refused(context))


async def test_revoked_grant_ends_at_the_gateway_within_a_second_and_hits_no_other(
    rig: Rig,
) -> None:
    first, second = await rig.delegate("task_1"), await rig.delegate("task_2")
    contexts = [(await rig.exchange(one.grant)).context for one in (first, second)]
    for context in contexts:
        assert not await rig.call_refused(context)
    for _ in range(2):
        await rig.coordinator.operation(contract.revoke_grant, RevokeGrant(grant=first.grant))
    await eventually(lambda: rig.call_refused(contexts[0]), timeout_s=1)
    assert await rig.exchange_refused(first.grant)
    assert not await rig.call_refused(contexts[1])
    assert not await rig.call_refused(rig.context())
    assert not await rig.exchange_refused(second.grant)


async def test_grants_that_end_together_all_end_and_no_other(rig: Rig) -> None:
    granted = [await rig.delegate(f"task_{n}") for n in range(4)]
    contexts = [(await rig.exchange(one.grant)).context for one in granted]
    for context in contexts:
        assert not await rig.call_refused(context)
    names = [one.grant for one in granted]
    ask = RevokeGrant(grant=names[0], others=tuple(names[1:3]))
    await rig.coordinator.operation(contract.revoke_grant, ask)
    for context in contexts[:3]:
        await eventually(lambda context=context: rig.call_refused(context), timeout_s=1)
    for name in names[:3]:
        assert await rig.exchange_refused(name)
    assert not await rig.call_refused(contexts[3])
    assert not await rig.exchange_refused(names[3])
    too_many = RevokeGrant(grant="g", others=("h",) * contract.GRANTS_REVOKED_MAX)
    with pytest.raises(MeshError) as caught:
        await rig.coordinator.operation(contract.revoke_grant, too_many)
    assert caught.value.kind is ErrorKind.PARAMS


async def test_other_roles_end_the_grant_of_the_earlier_ones(rig: Rig) -> None:
    granted = await rig.delegate()
    await rig.principal("Admin")
    await eventually(lambda: rig.exchange_refused(granted.grant))
    await rig.principal("Viewer")
    await eventually(lambda: rig.exchange_refused(granted.grant))


async def test_disabled_submitter_or_tenant_ends_the_grant(rig: Rig) -> None:
    granted = await rig.delegate()
    await rig.principal(enabled=False)
    await eventually(lambda: rig.exchange_refused(granted.grant))
    await rig.principal()
    await eventually(lambda: _not(rig.exchange_refused(granted.grant)))
    await rig.tenant(enabled=False)
    await eventually(lambda: rig.exchange_refused(granted.grant))


async def _not(attempt: Any) -> bool:
    return not await attempt


async def test_grant_ends_with_its_task(rig: Rig) -> None:
    granted = await rig.delegate(deadline_ms=rig.now_ms() + 1_500)
    assert granted.expires_ms <= rig.now_ms() + 1_500
    exchanged = await rig.exchange(granted.grant)
    assert exchanged.expires_ms == granted.expires_ms
    await eventually(lambda: rig.exchange_refused(granted.grant), timeout_s=5)
    with pytest.raises(MeshError) as caught:
        await rig.delegate(deadline_ms=rig.now_ms() - 1)
    assert caught.value.kind is ErrorKind.PARAMS


async def test_tasks_of_tasks_go_four_deep_and_end_with_the_outermost(rig: Rig) -> None:
    grants: list[str] = []
    context = rig.context()
    for depth in (1, 2, 3, 4):
        granted = await rig.delegate(f"task_{depth}", context=context)
        grants.append(granted.grant)
        context = await _seen_by_a_server(rig, (await rig.exchange(granted.grant)).context)
        assert rig.claims(context).chain == tuple(f"task_{n}" for n in range(1, depth + 1))
    for task, reason in (("task_5", "delegation_depth"), ("task_2", "delegation_cycle")):
        with pytest.raises(MeshError) as caught:
            await rig.delegate(task, context=context)
        assert caught.value.kind is ErrorKind.DENIED
        assert caught.value.data["reason"] == reason
    await rig.coordinator.operation(contract.revoke_grant, RevokeGrant(grant=grants[0]))
    for grant in grants:
        assert await rig.exchange_refused(grant)


async def _seen_by_a_server(rig: Rig, context: str) -> str:
    """The context that a server gets when an agent calls it: the gateway signs anew."""
    seen: list[str] = []

    async def hear(message: Any) -> None:
        seen.append((message.headers or {})["Mesh-Ctx"])

    subscription = await rig.operator.subscribe(f"mesh.v1.{ACME}.call.kv.>", hear)
    await rig.call(context, "kv_get", key="k")
    await eventually(lambda: bool(seen))
    await subscription.unsubscribe()
    assert seen[0] != context
    return seen[0]


async def test_forged_or_foreign_contexts_and_unknown_grants_give_nothing(rig: Rig) -> None:
    context = rig.context()
    for broken in ("", "x.y.z", context[:-4] + "AAAA", "x" * 100_000):
        with pytest.raises(MeshError) as caught:
            await rig.delegate(context=broken or " ")
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    for cid in ("key:unknown", "demo", "static", "grant:x", "else"):
        with pytest.raises(MeshError) as caught:
            await rig.delegate(context=rig.context(cid=cid))
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    assert await rig.exchange_refused("grant_" + "0" * 32)
    for grant in ("", "x" * 65):
        with pytest.raises(MeshError) as caught:
            await rig.exchange(grant)
        assert caught.value.kind is ErrorKind.PARAMS


async def test_only_tenant_auth_reads_grants(rig: Rig, broker: Broker) -> None:
    granted = await rig.delegate()
    subject = f"$JS.API.DIRECT.GET.{buckets.GRANTS.stream}.$KV.mesh_grants.{granted.grant}"
    for service, instance in (
        ("gateway", "gateway-2"),
        ("tool-runner", "runner-2"),
        ("swarm-coordinator", "swarm-2"),
        ("agent-host", "agent-host-2"),
    ):
        bus = await _bus(broker, service, instance)
        for attempt in (subject, f"$KV.mesh_grants.{granted.grant}", contract.exchange.subject):
            if (service, attempt) == ("swarm-coordinator", contract.exchange.subject):
                continue
            with pytest.raises(MeshError) as caught:
                await bus.request(attempt, b"{}", timeout_s=2)
            assert caught.value.kind is ErrorKind.DENIED
        await bus.close()
