"""Tenant-auth on a real broker, under its own rights: keys, sessions, revocation, demo tenant."""

import asyncio
import shutil
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets
from mcp_proto.contracts import tenant_auth as contract
from mcp_proto.contracts.tenant_auth import (
    Authenticate,
    CreatedKey,
    Cut,
    Identity,
    KeyCreate,
    KeyList,
    KeyRecord,
    KeyRevoke,
    Login,
    LoginAnswer,
    Logout,
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
from mesh_chassis.config import ServiceSection
from mesh_chassis.keyring import KeyRing
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from tenant_auth.config import SecurityConfig, SessionsConfig, TenantAuthConfig
from tenant_auth.core.policy import DEFAULT_RULES
from tenant_auth.core.tokens import new_key, new_session
from tenant_auth.service import build

pytestmark = pytest.mark.usefixtures("provision")

ConfigOf = Callable[..., TenantAuthConfig]


@pytest.fixture
def config_of(tmp_path: Path) -> ConfigOf:
    """Configurations that share one pepper and one KEK, as replicas do."""
    for name, text in (("pepper", "p" * 43), ("kek", new_kek())):
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(text)

    def make(
        name: str = "tenant-auth-1", *, development: bool = False, idle_s: int = 1800
    ) -> TenantAuthConfig:
        return TenantAuthConfig(
            service=ServiceSection(instance=name),
            security=SecurityConfig(
                development=development,
                env="test",
                pepper_file=str(tmp_path / "pepper"),
                kek_file=str(tmp_path / "kek"),
            ),
            sessions=SessionsConfig(idle_s=idle_s),
        )

    return make


class Auth:
    """What operators and gateways ask, each under its own rights."""

    def __init__(self, gateway: Bus, operator: Bus) -> None:
        self.gateway = gateway
        self.operator = operator

    async def tenant(self, tenant: str = "acme", *rules: Rule, version: int = -1) -> None:
        await self.operator.operation(
            contract.tenant_put,
            TenantPut(tenant=Tenant(id=tenant, rules=rules), expected_version=version),
        )

    async def principal(self, *roles: str, name: str = "ann", enabled: bool = True) -> None:
        one = Principal(id=name, tenant="acme", roles=roles or ("User",), enabled=enabled)

        # The replica that answers may not have seen the tenant yet.
        async def written() -> bool:
            try:
                await self.operator.operation(contract.principal_put, PrincipalPut(principal=one))
            except MeshError as error:
                if error.kind is ErrorKind.NOT_FOUND:
                    return False
                raise
            return True

        await eventually(written)

    async def key(self, *, name: str = "ann", ttl_s: int = 0) -> CreatedKey:
        made: list[CreatedKey] = []

        async def created() -> bool:
            params = KeyCreate(tenant="acme", principal=name, label="l", ttl_s=ttl_s)
            try:
                made.append(await self.operator.operation(contract.key_create, params))
            except MeshError as error:
                if error.kind is ErrorKind.NOT_FOUND:
                    return False
                raise
            return True

        await eventually(created)
        return made[0]

    async def check(self, credential: str, tenant: str = "") -> Identity:
        return await self.gateway.operation(
            contract.authenticate, Authenticate(credential=credential, tenant=tenant)
        )

    async def is_refused(self, credential: str) -> bool:
        try:
            await self.check(credential)
        except MeshError as error:
            return error.kind is ErrorKind.UNAUTHENTICATED
        return False

    async def refusal(self, credential: str, tenant: str = "") -> MeshError:
        with pytest.raises(MeshError) as caught:
            await self.check(credential, tenant)
        return caught.value

    async def login(self, credential: str) -> LoginAnswer:
        return await self.gateway.operation(contract.login, Login(credential=credential))

    async def refused_soon(self, credential: str) -> None:
        """Refused by every replica; their watches are a moment behind one another."""

        async def ask() -> bool:
            answers = await asyncio.gather(
                *(self.check(credential) for _ in range(8)), return_exceptions=True
            )
            return all(isinstance(one, MeshError) for one in answers)

        await eventually(ask, timeout_s=1.0)


@pytest_asyncio.fixture(params=[1, 2], ids=["one-replica", "two-replicas"])
async def auth(
    broker, connect_bus, config_of: ConfigOf, request: pytest.FixtureRequest
) -> AsyncIterator[Auth]:
    async with AsyncExitStack() as stack:
        for n in range(1, request.param + 1):
            name = f"tenant-auth-{n}"
            bus = await connect_bus("tenant-auth", name)
            await stack.enter_async_context(in_process(build, config_of(name), bus))
        yield Auth(
            await connect_bus("gateway", "gateway-1"), await connect_bus("operator", "operator")
        )


async def test_created_key_authenticates_at_once_with_the_grant_of_its_principal(
    auth: Auth,
) -> None:
    await auth.tenant(
        "acme",
        Rule(effect="allow", pattern="notes:*", roles=("User",)),
        Rule(effect="deny", pattern="notes:delete"),
    )
    await auth.principal("User")
    made = await auth.key(ttl_s=600)
    found = await auth.check(made.key)
    assert (found.tenant, found.principal, found.roles) == ("acme", "ann", ("User",))
    assert found.credential_id == f"key:{made.id}"
    assert (found.grant.allow, found.grant.deny) == (("notes:*",), ("notes:delete",))
    assert "CallTools" in found.grant.permissions
    # Two processes know the broker's time to a few ms each.
    assert 0 < found.expires_ms - auth.gateway.server_now_ms() <= 600_100
    assert await auth.check(made.key, "acme") == found
    assert (await auth.refusal(made.key, "other")).kind is ErrorKind.DENIED


async def test_every_bad_credential_is_refused_alike(auth: Auth) -> None:
    await auth.tenant()
    await auth.principal()
    good = (await auth.key()).key
    _, unknown = new_key("test", bytes(12), bytes(32))
    _, foreign = new_key("prod", bytes(12), bytes(32))
    _, nobody = new_session(bytes(12), bytes(32))
    other_secret = new_key("test", bytes(12), b"\xff" * 32)[1]
    mine = good.split("_")
    theirs = other_secret.split("_")
    swapped = "_".join([*mine[:3], theirs[3], mine[4]])
    bad = [
        "",
        "x",
        good[:-1],
        good + "0",
        good[:-8] + "00000000",
        swapped,
        unknown,
        foreign,
        nobody,
        good.replace("mk_", "ms_"),
        "mk_" + "a" * 100_000,
        "\u0000",
        "Bearer " + good,
    ]
    errors = [await auth.refusal(credential) for credential in bad]
    seen = {(error.kind, error.message, error.outcome, str(error.data)) for error in errors}
    assert len(seen) == 1
    assert errors[0].kind is ErrorKind.UNAUTHENTICATED
    assert (await auth.check(good)).principal == "ann"


async def test_revoked_key_is_refused_and_gateways_see_it_within_a_second(auth: Auth) -> None:
    await auth.tenant()
    await auth.principal()
    made = await auth.key()
    session = await auth.login(made.key)
    seen: dict[str, object] = {}
    kv = await KV.open(auth.gateway, buckets.CONFIG)

    def on_entry(key: str, value: bytes | None, _revision: int) -> None:
        if key == f"key.{made.id}" and value is not None:
            seen["key"] = msgspec.json.decode(value, type=KeyRecord).revoked_ms
        elif key.startswith("cut.login.") and value is not None:
            seen["cut"] = msgspec.json.decode(value, type=Cut).credential_id

    watch = await kv.watch(on_entry=on_entry)
    await watch.ready
    opened = (await auth.check(session.token)).credential_id
    await auth.operator.operation(contract.key_revoke, KeyRevoke(id=made.id))
    await eventually(lambda: seen.get("key") and seen.get("cut") == opened, timeout_s=1.0)
    await auth.refused_soon(made.key)
    await auth.refused_soon(session.token)
    await auth.operator.operation(contract.key_revoke, KeyRevoke(id=made.id))
    with pytest.raises(MeshError) as caught:
        await auth.operator.operation(contract.key_revoke, KeyRevoke(id="nobody"))
    assert caught.value.kind is ErrorKind.NOT_FOUND
    await watch.stop()


async def test_key_of_a_disabled_principal_or_tenant_is_refused(auth: Auth) -> None:
    await auth.tenant()
    await auth.principal()
    made = await auth.key()
    await auth.principal(enabled=False)
    await auth.refused_soon(made.key)
    await auth.principal()

    async def accepted() -> bool:
        return bool(await auth.check(made.key))

    await eventually(lambda: _quiet(accepted))
    await auth.operator.operation(
        contract.tenant_put, TenantPut(tenant=Tenant(id="acme", enabled=False))
    )
    await auth.refused_soon(made.key)


async def _quiet(ask: Callable[[], object]) -> bool:
    try:
        return bool(await ask())
    except MeshError:
        return False


async def test_principal_can_be_disabled_when_there_is_room_for_no_more(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.tenant()
    await auth.principal()
    key = await auth.key()
    monkeypatch.setattr("tenant_auth.handlers.administration.PRINCIPALS_MAX", 1)
    with pytest.raises(MeshError) as caught:
        await auth.principal(name="bob")
    assert caught.value.kind is ErrorKind.OVERLOADED
    await auth.principal(enabled=False)
    await eventually(lambda: auth.is_refused(key.key))


async def test_session_ends_by_logout_everywhere_and_never_comes_back(auth: Auth) -> None:
    await auth.tenant()
    await auth.principal()
    made = await auth.key()
    session = await auth.login(made.key)
    assert (session.idle_s, session.absolute_s) == (1800, 43_200)
    found = await auth.check(session.token)
    assert found.credential_id.startswith("login:")
    with pytest.raises(MeshError) as caught:
        await auth.login(session.token)  # a session opens no session
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    await auth.gateway.operation(contract.logout, Logout(token=session.token))
    await auth.refused_soon(session.token)
    with pytest.raises(MeshError) as caught:
        await auth.gateway.operation(contract.logout, Logout(token=session.token))
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    cuts = await KV.open(auth.operator, buckets.CONFIG)
    key = buckets.key("cut", "login", found.credential_id.removeprefix("login:"))
    assert await cuts.get(key) is not None
    # Gateways may read the cut, never the logins themselves.
    with pytest.raises(MeshError):
        await KV.bind(auth.gateway, buckets.LOGINS).get("login.x")


async def test_tenants_change_by_version_and_start_with_the_default_rules(auth: Auth) -> None:
    await auth.tenant(version=0)

    async def listed() -> Tenant | None:
        answer = await auth.operator.operation(contract.tenant_list, contract.ListTenants())
        return answer.tenants[0] if answer.tenants else None

    async def there() -> bool:
        return await listed() == Tenant(id="acme", rules=DEFAULT_RULES, version=1)

    await eventually(there)
    for wrong in (0, 2):
        with pytest.raises(MeshError) as caught:
            await auth.tenant(version=wrong)
        assert caught.value.data["version"] == 1
    await auth.tenant(version=1)
    winners = await asyncio.gather(
        *(auth.tenant("acme", Rule(effect="deny", pattern=f"s{n}:*"), version=2) for n in range(6)),
        return_exceptions=True,
    )
    assert sum(one is None for one in winners) == 1


async def test_lists_show_no_secret(auth: Auth) -> None:
    await auth.tenant()
    await auth.principal()
    made = await auth.key()
    replies: list[bytes] = []

    async def shown() -> bool:
        reply = await auth.operator.request(contract.key_list.subject, b"{}", timeout_s=2)
        replies.append(reply.payload)
        return made.id.encode() in reply.payload

    await eventually(shown)
    rows = msgspec.json.decode(replies[-1], type=KeyList).keys
    assert [(row.id, row.label, row.state) for row in rows] == [(made.id, "l", "active")]
    stored = await (await KV.open(auth.operator, buckets.CONFIG)).get(f"key.{made.id}")
    assert stored is not None
    for text in (replies[-1], stored.value):
        assert made.key.split("_")[3].encode() not in text


async def test_gateway_may_not_administer_and_runner_may_not_even_ask(
    auth: Auth, connect_bus
) -> None:
    params = KeyCreate(tenant="acme", principal="ann")
    with pytest.raises(MeshError):
        await auth.gateway.operation(contract.key_create, params, timeout_s=0.3)
    runner = await connect_bus("tool-runner", "runner-1")
    with pytest.raises(MeshError):
        await runner.operation(contract.authenticate, Authenticate(credential="x"), timeout_s=0.3)
    with pytest.raises(MeshError):
        await KV.bind(runner, buckets.CONFIG).get("tenant.acme")


async def test_demo_identity_is_refused_outside_development(auth: Auth) -> None:
    assert (await auth.refusal("")).kind is ErrorKind.UNAUTHENTICATED
    with pytest.raises(MeshError, match="development only"):
        await auth.tenant("demo-tenant")


async def test_demo_identity_exists_in_development_and_dies_with_it(
    broker, connect_bus, config_of: ConfigOf
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    operator = await connect_bus("operator", "operator")
    auth = Auth(gateway, operator)
    for _ in range(2):  # a second start finds it and changes nothing
        bus = await connect_bus("tenant-auth", "tenant-auth-1")
        async with in_process(build, config_of(development=True), bus):
            found = await auth.check("")
            assert (found.tenant, found.principal, found.roles, found.credential_id) == (
                "demo-tenant",
                "user-demo-123",
                ("Admin",),
                "demo",
            )
            assert found.grant.allow == ("*",)
            assert (await auth.check("", "demo-tenant")) == found
            assert (await auth.refusal("", "acme")).kind is ErrorKind.DENIED
            answer = await operator.operation(contract.tenant_list, contract.ListTenants())
            assert [(one.id, one.version, one.settings) for one in answer.tenants] == [
                ("demo-tenant", 1, {"region": "us-west-2"})
            ]
            made = await operator.operation(
                contract.key_create, KeyCreate(tenant="demo-tenant", principal="user-demo-123")
            )
            assert (await auth.check(made.key)).tenant == "demo-tenant"
    bus = await connect_bus("tenant-auth", "tenant-auth-2")
    async with in_process(build, config_of("tenant-auth-2"), bus):
        assert (await auth.refusal("")).kind is ErrorKind.UNAUTHENTICATED
        assert (await auth.refusal(made.key)).kind is ErrorKind.UNAUTHENTICATED


async def test_restart_and_broker_restart_keep_keys_and_sessions(
    broker, connect_bus, config_of: ConfigOf
) -> None:
    auth = Auth(
        await connect_bus("gateway", "gateway-1"), await connect_bus("operator", "operator")
    )
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(), bus):
        await auth.tenant()
        await auth.principal()
        made = await auth.key()
        session = await auth.login(made.key)
    bus = await connect_bus("tenant-auth", "tenant-auth-2")
    async with in_process(build, config_of("tenant-auth-2"), bus):
        assert (await auth.check(session.token)).principal == "ann"
        await broker.kill()
        await broker.start()

        async def accepted() -> bool:
            return await _quiet(lambda: auth.check(session.token)) and await _quiet(
                lambda: auth.check(made.key)
            )

        await eventually(accepted, timeout_s=15)


async def test_development_goes_on_when_the_broker_lost_its_disk(
    broker, connect_bus, config_of: ConfigOf, tmp_path: Path
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    auth = Auth(gateway, await connect_bus("operator", "operator"))
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(development=True), bus):
        before = await auth.check("")
        ring = await KeyRing.open(gateway)
        old = ring.signing_key(gateway.server_now_ms())
        assert old is not None
        # A ring that begins anew names its first key after the second.
        await eventually(lambda: gateway.server_now_ms() > old.created_ms + 1000)
        await broker.kill()
        shutil.rmtree(broker.store)
        await broker.start()

        async def same_again() -> bool:
            new = ring.signing_key(gateway.server_now_ms())
            return new is not None and new.kid != old.kid and await _quiet(lambda: auth.check(""))

        await eventually(same_again, timeout_s=15)
        assert await auth.check("") == before
        await ring.close()


async def test_idle_session_ends_though_nobody_deletes_it(
    broker, connect_bus, config_of: ConfigOf
) -> None:
    auth = Auth(
        await connect_bus("gateway", "gateway-1"), await connect_bus("operator", "operator")
    )
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(idle_s=1), bus):
        await auth.tenant()
        await auth.principal()
        made = await auth.key()
        used, unused = await auth.login(made.key), await auth.login(made.key)
        start = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < start + 1.6:
            assert (await auth.check(used.token)).principal == "ann"
            await asyncio.sleep(0.1)
        assert (await auth.refusal(unused.token)).kind is ErrorKind.UNAUTHENTICATED


async def test_check_takes_less_than_a_millisecond_inside(
    broker, connect_bus, config_of: ConfigOf
) -> None:
    auth = Auth(
        await connect_bus("gateway", "gateway-1"), await connect_bus("operator", "operator")
    )
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(), bus) as service:
        await auth.tenant()
        await auth.principal()
        made = await auth.key()
        endpoint = next(one for one in service.endpoints if one.name == "authenticate")
        before = endpoint.stats.processing_ns
        times = []
        for _ in range(50):
            await auth.check(made.key)
            after = endpoint.stats.processing_ns
            times.append((after - before) / 1e6)
            before = after
        assert statistics.median(times) < 1.0
