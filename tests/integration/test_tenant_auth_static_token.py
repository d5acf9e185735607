"""The server's own token at tenant-auth, on a real broker and under its own rights."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from mcp_proto import buckets
from mcp_proto.contracts import tenant_auth as contract
from mcp_proto.contracts.tenant_auth import (
    Authenticate,
    Identity,
    Login,
    Principal,
    PrincipalPut,
    Rule,
    Tenant,
    TenantPut,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import new_kek
from mesh_chassis.config import ConfigError, ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from tenant_auth.config import SecurityConfig, TenantAuthConfig
from tenant_auth.core.tokens import new_key
from tenant_auth.service import build

pytestmark = pytest.mark.usefixtures("provision")

TOKEN = "of-my-own-choosing"
OTHER = "another-of-my-own-choosing"

ConfigOf = Callable[..., TenantAuthConfig]


def private(path: Path, text: str, mode: int = 0o600) -> str:
    path.touch(mode=mode)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def config_of(tmp_path: Path) -> ConfigOf:
    kek = new_kek()

    def make(token: str = TOKEN, mode: int = 0o600) -> TenantAuthConfig:
        return TenantAuthConfig(
            service=ServiceSection(instance="tenant-auth-1"),
            security=SecurityConfig(
                env="test",
                pepper_file=private(tmp_path / "pepper", "p" * 43),
                kek_file=private(tmp_path / "kek", kek),
                static_token_file=private(tmp_path / "static.token", token, mode) if token else "",
            ),
        )

    return make


class Callers:
    """A gateway that asks and an operator who changes."""

    def __init__(self, gateway: Bus, operator: Bus) -> None:
        self.gateway = gateway
        self.operator = operator

    async def check(self, credential: str, tenant: str = "") -> Identity:
        return await self.gateway.operation(
            contract.authenticate, Authenticate(credential=credential, tenant=tenant)
        )

    async def refusal(self, credential: str, tenant: str = "") -> MeshError:
        with pytest.raises(MeshError) as caught:
            await self.check(credential, tenant)
        return caught.value

    async def put(self, what: Tenant | Principal) -> None:
        if isinstance(what, Tenant):
            await self.operator.operation(contract.tenant_put, TenantPut(tenant=what))
        else:
            await self.operator.operation(contract.principal_put, PrincipalPut(principal=what))

    async def tenants(self) -> contract.TenantList:
        return await self.operator.operation(contract.tenant_list, contract.ListTenants())


@pytest_asyncio.fixture
async def callers(broker, connect_bus) -> Callers:
    return Callers(
        await connect_bus("gateway", "gateway-1"), await connect_bus("operator", "operator")
    )


@pytest_asyncio.fixture
async def auth(callers: Callers, connect_bus, config_of: ConfigOf) -> AsyncIterator[Callers]:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(), bus):
        yield callers


async def test_token_is_the_admin_of_the_default_tenant(auth: Callers) -> None:
    found = await auth.check(TOKEN)

    assert (found.tenant, found.principal, found.roles) == ("default", "admin", ("Admin",))
    assert (found.credential_id, found.expires_ms) == ("static", 0)
    assert (found.grant.allow, found.grant.deny) == (("*",), ())
    assert {"Manage", "CallTools", "WriteKV"} <= found.grant.permissions
    assert await auth.check(TOKEN, "default") == found
    assert (await auth.refusal(TOKEN, "acme")).kind is ErrorKind.DENIED


async def test_every_wrong_token_is_refused_alike(auth: Callers) -> None:
    bad = [
        "",
        TOKEN[:-1],
        f"{TOKEN}x",
        TOKEN.upper(),
        f" {TOKEN}",
        f"Bearer {TOKEN}",
        "é" * 18,
        "x" * 100_000,
        new_key("test", bytes(12), bytes(32))[1],
    ]
    errors = [await auth.refusal(credential) for credential in bad]

    assert len({(one.kind, one.message, one.outcome, str(one.data)) for one in errors}) == 1
    assert errors[0].kind is ErrorKind.UNAUTHENTICATED
    assert TOKEN not in repr(errors)


async def test_token_opens_no_session(auth: Callers) -> None:
    with pytest.raises(MeshError) as caught:
        await auth.gateway.operation(contract.login, Login(credential=TOKEN))

    assert caught.value.kind is ErrorKind.UNAUTHENTICATED


async def test_token_follows_rules_roles_and_switches_of_its_principal(auth: Callers) -> None:
    deny = Rule(effect="deny", pattern="notes:*")
    await auth.put(Tenant(id="default", rules=(Rule(effect="allow", pattern="*"), deny)))
    await auth.put(Principal(id="admin", tenant="default", roles=("Viewer",)))
    found = await auth.check(TOKEN)
    assert (found.roles, found.grant.deny) == (("Viewer",), ("notes:*",))
    assert "Manage" not in found.grant.permissions

    await auth.put(Principal(id="admin", tenant="default", roles=("Admin",), enabled=False))
    disabled = await auth.refusal(TOKEN)
    await auth.put(Principal(id="admin", tenant="default", roles=("Admin",)))
    assert (await auth.check(TOKEN)).roles == ("Admin",)
    await auth.put(Tenant(id="default", enabled=False))
    closed = await auth.refusal(TOKEN)

    wrong = await auth.refusal(OTHER)
    assert {(one.kind, one.message) for one in (disabled, closed, wrong)} == {
        (ErrorKind.UNAUTHENTICATED, wrong.message)
    }


async def test_restart_takes_a_new_token_and_keeps_what_was_changed(
    callers: Callers, connect_bus, config_of: ConfigOf
) -> None:
    changed = Principal(id="admin", tenant="default", roles=("User",))
    for token, refused in ((TOKEN, OTHER), (OTHER, TOKEN)):
        bus = await connect_bus("tenant-auth", "tenant-auth-1")
        async with in_process(build, config_of(token), bus):
            await callers.check(token)
            assert (await callers.refusal(refused)).kind is ErrorKind.UNAUTHENTICATED
            listed = await callers.tenants()
            assert [(one.id, one.version) for one in listed.tenants] == [("default", 1)]
            if token == TOKEN:
                await callers.put(changed)
            else:
                assert listed.principals == (changed,)
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(""), bus):
        for token in (TOKEN, OTHER):
            assert (await callers.refusal(token)).kind is ErrorKind.UNAUTHENTICATED


async def test_disabled_admin_stays_disabled_through_a_restart(
    callers: Callers, connect_bus, config_of: ConfigOf
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(), bus):
        await callers.put(Principal(id="admin", tenant="default", roles=("Admin",), enabled=False))
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(), bus):
        assert (await callers.refusal(TOKEN)).kind is ErrorKind.UNAUTHENTICATED


async def test_token_works_again_when_the_broker_lost_its_disk(
    auth: Callers, broker, tmp_path: Path
) -> None:
    await auth.check(TOKEN)
    await broker.kill()
    for file in sorted(broker.store.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    await broker.start()

    async def made_again() -> bool:
        try:
            # The bucket itself: a copy in memory may not have heard of the loss yet.
            kv = await KV.open(auth.operator, buckets.CONFIG)
            stored = await kv.get("principal.default.admin")
            return stored is not None and (await auth.check(TOKEN)).principal == "admin"
        except MeshError:
            return False

    await eventually(made_again, timeout_s=15)


async def test_service_does_not_start_with_a_token_that_others_can_read(
    broker, connect_bus, config_of: ConfigOf
) -> None:
    config = config_of(mode=0o644)
    bus = await connect_bus("tenant-auth", "tenant-auth-1")

    with pytest.raises(ConfigError, match="static_token_file"):
        async with in_process(build, config, bus):
            pass
