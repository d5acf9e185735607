"""What is decided about a credential when the copies cannot be trusted."""

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import Authenticate, Login
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bucket import KV
from mesh_chassis.config import ServiceSection
from mesh_chassis.tasks import Tasks
from tenant_auth.config import TenantAuthConfig
from tenant_auth.core.tokens import parse_peppers
from tenant_auth.handlers.credentials import CLOSED_AFTER_S, Credentials
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.grants import GrantStore
from tenant_auth.store.logins import LoginStore


class Aged(LoginStore):
    """A store whose last proof is as old as the test says."""

    age = 0.0

    @property
    def age_s(self) -> float:
        return self.age


class AgedAccounts(AccountStore):
    @property
    def age_s(self) -> float:
        return 0.0


class NoBus:
    """Fails the test when anything is asked of it."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the bus was used: {name}")


def credentials(age_s: float) -> Credentials:
    bus = NoBus()
    logins = Aged(KV.bind(bus, buckets.LOGINS))
    logins.age = age_s
    return Credentials(
        AgedAccounts(KV.bind(bus, buckets.CONFIG)),
        logins,
        GrantStore(KV.bind(bus, buckets.GRANTS)),
        parse_peppers("p" * 40),
        TenantAuthConfig(service=ServiceSection(instance="t")),
        tasks=Tasks("t"),
        now_ms=lambda: 0,
    )


async def test_nobody_is_let_in_without_proof_for_thirty_seconds() -> None:
    stale = credentials(CLOSED_AFTER_S + 0.1)
    for ask in (
        stale.authenticate(Authenticate(credential="x")),
        stale.login(Login(credential="x")),
    ):
        with pytest.raises(MeshError) as caught:
            await ask
        assert caught.value.kind is ErrorKind.BUS
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert caught.value.retry_after_s


@pytest.mark.parametrize("credential", ["", "x", "mk_live_x", "ms_" + "a" * 56, "é" * 500_000])
async def test_damaged_credential_is_refused_without_asking_anybody(credential: str) -> None:
    with pytest.raises(MeshError) as caught:
        await credentials(0.0).authenticate(Authenticate(credential=credential))
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    assert "credential" not in msgspec.to_builtins(caught.value.data)
