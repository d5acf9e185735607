"""Operations of administrators: tenants, principals, keys.

Only operators may publish to these subjects (``mcp_proto.broker_rights``): the broker is the
check.
"""

import logging
import os
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.contracts.tenant_auth import (
    CreatedKey,
    Empty,
    KeyCreate,
    KeyInfo,
    KeyList,
    KeyRecord,
    KeyRevoke,
    ListKeys,
    ListTenants,
    Principal,
    PrincipalPut,
    Tenant,
    TenantList,
    TenantPut,
)
from mcp_proto.errors import ErrorKind, MeshError
from tenant_auth.core.demo import DEMO_TENANT, demo_principal, demo_tenant
from tenant_auth.core.owner import owner_principal, owner_tenant
from tenant_auth.core.policy import DEFAULT_RULES, check_principal, check_tenant
from tenant_auth.core.tokens import (
    ID_RANDOM_BYTES,
    SECRET_RANDOM_BYTES,
    Pepper,
    mac_of,
    new_key,
)
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.logins import LoginStore

__all__ = ["Administration"]

TENANTS_MAX = 10_000
PRINCIPALS_MAX = 100_000
KEYS_PER_PRINCIPAL_MAX = 100
"""Active ones: rotation needs two, a fleet of machines under one name some dozens."""

_LABEL_CHARS_MAX = 200
_TTL_MAX_S = 10 * 366 * 86_400

_log = logging.getLogger(__name__)


class Administration:
    """See the module.

    Args:
        accounts: tenants, principals, keys.
        logins: sessions that end with their key.
        end_login: ends one everywhere.
        pepper: makes the MACs of new keys.
        env: environment that new keys name.
        development: whether the demo tenant may exist.
        now_ms: broker time, Unix ms.
    """

    def __init__(
        self,
        accounts: AccountStore,
        logins: LoginStore,
        end_login: Callable[[str], Awaitable[None]],
        *,
        pepper: Pepper,
        env: str,
        development: bool,
        now_ms: Callable[[], int],
    ) -> None:
        self._accounts = accounts
        self._logins = logins
        self._end_login = end_login
        self._pepper = pepper
        self._env = env
        self._development = development
        self._now_ms = now_ms

    async def ensure_demo(self) -> None:
        """Make the demo tenant if it is not there; what somebody changed in it stays."""
        await self._ensure(demo_tenant(), demo_principal())

    async def ensure_owner(self) -> None:
        """Make whom the server's own token stands for; what somebody changed in it stays."""
        await self._ensure(owner_tenant(), owner_principal())

    async def tenant_put(self, params: TenantPut) -> Empty:
        """Create or replace a tenant.

        Raises:
            MeshError: ``params``: malformed, or another version is stored; ``overloaded``.
        """
        tenant, expected = params.tenant, params.expected_version
        check_tenant(tenant)
        if tenant.id == DEMO_TENANT and not self._development:
            raise MeshError(ErrorKind.PARAMS, f"{DEMO_TENANT} exists in development only")
        if (
            self._accounts.tenant(tenant.id) is None
            and len(self._accounts.tenants()) >= TENANTS_MAX
        ):
            raise MeshError(ErrorKind.OVERLOADED, f"at most {TENANTS_MAX} tenants")

        def change(old: Tenant | None) -> Tenant:
            version = old.version if old is not None else 0
            if expected not in {-1, version}:
                raise MeshError(
                    ErrorKind.PARAMS,
                    f"tenant {tenant.id} has version {version}, not {expected}",
                    data={"version": version},
                )
            rules = tenant.rules or (DEFAULT_RULES if old is None else ())
            return msgspec.structs.replace(tenant, rules=rules, version=version + 1)

        stored = await self._accounts.put_tenant(tenant.id, change)
        _log.info("tenant written", extra={"tenant_id": stored.id, "stored": stored.version})
        return Empty()

    async def tenant_list(self, _params: ListTenants) -> TenantList:
        """All tenants and principals."""
        return TenantList(
            tenants=tuple(sorted(self._accounts.tenants(), key=lambda one: one.id)),
            principals=tuple(
                sorted(self._accounts.principals(), key=lambda one: (one.tenant, one.id))
            ),
        )

    async def principal_put(self, params: PrincipalPut) -> Empty:
        """Create or replace a principal.

        Raises:
            MeshError: ``params``, ``not_found`` (tenant), ``overloaded``.
        """
        principal = params.principal
        check_principal(principal)
        self._tenant(principal.tenant)
        new = self._accounts.principal(principal.tenant, principal.id) is None
        if new and len(self._accounts.principals()) >= PRINCIPALS_MAX:
            raise MeshError(ErrorKind.OVERLOADED, f"at most {PRINCIPALS_MAX} principals")
        await self._accounts.put_principal(principal)
        _log.info(
            "principal written",
            extra={"tenant_id": principal.tenant, "principal": principal.id},
        )
        return Empty()

    async def key_create(self, params: KeyCreate) -> CreatedKey:
        """Make an API key; its text is in this answer and nowhere else.

        Raises:
            MeshError: ``params``, ``not_found`` (tenant, principal), ``overloaded``.
        """
        if len(params.label) > _LABEL_CHARS_MAX:
            raise MeshError(ErrorKind.PARAMS, f"labels have at most {_LABEL_CHARS_MAX} characters")
        if not 0 <= params.ttl_s <= _TTL_MAX_S:
            raise MeshError(ErrorKind.PARAMS, f"ttl_s is 0 (no expiry) to {_TTL_MAX_S}")
        self._tenant(params.tenant)
        if self._accounts.principal(params.tenant, params.principal) is None:
            raise MeshError(
                ErrorKind.NOT_FOUND, f"no principal {params.principal} in tenant {params.tenant}"
            )
        self._refuse_too_many(params.tenant, params.principal)
        while True:
            key, text = new_key(
                self._env, os.urandom(ID_RANDOM_BYTES), os.urandom(SECRET_RANDOM_BYTES)
            )
            now_ms = self._now_ms()
            record = KeyRecord(
                id=key.id,
                tenant=params.tenant,
                principal=params.principal,
                mac=mac_of(key.body, self._pepper),
                pepper=self._pepper.name,
                label=params.label,
                created_ms=now_ms,
                expires_ms=now_ms + params.ttl_s * 1000 if params.ttl_s else 0,
            )
            if await self._accounts.create_key(record):
                break
        _log.info("key created", extra={"tenant_id": record.tenant, "key_id": record.id})
        return CreatedKey(id=record.id, key=text)

    async def key_revoke(self, params: KeyRevoke) -> Empty:
        """Revoke a key and end the sessions opened with it; repeating it is harmless.

        Raises:
            MeshError: ``not_found``.
        """
        if not params.id:
            raise MeshError(ErrorKind.PARAMS, "id is missing")
        record = await self._accounts.revoke_key(params.id, self._now_ms())
        for login in self._logins.of_key(record.id):
            await self._end_login(login.id)
        _log.info("key revoked", extra={"tenant_id": record.tenant, "key_id": record.id})
        return Empty()

    async def key_list(self, params: ListKeys) -> KeyList:
        """Keys of a tenant, or all, without secrets."""
        now_ms = self._now_ms()
        records = [one for one in self._accounts.key_records() if params.tenant in {"", one.tenant}]
        records.sort(key=lambda one: (one.tenant, one.principal, one.created_ms, one.id))
        return KeyList(keys=tuple(_info(one, now_ms) for one in records))

    async def _ensure(self, tenant: Tenant, principal: Principal) -> None:
        if self._accounts.tenant(tenant.id) is None:
            await self._accounts.put_tenant(tenant.id, lambda old: old or tenant)
        if self._accounts.principal(principal.tenant, principal.id) is None:
            await self._accounts.ensure_principal(principal)

    def _tenant(self, tenant: str) -> None:
        if not tenant or self._accounts.tenant(tenant) is None:
            raise MeshError(ErrorKind.NOT_FOUND, f"no tenant {tenant}")

    def _refuse_too_many(self, tenant: str, principal: str) -> None:
        now_ms = self._now_ms()
        active = sum(
            1
            for one in self._accounts.key_records()
            if (one.tenant, one.principal) == (tenant, principal)
            and _state(one, now_ms) == "active"
        )
        if active >= KEYS_PER_PRINCIPAL_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"a principal has at most {KEYS_PER_PRINCIPAL_MAX} active keys; revoke some",
            )


def _state(record: KeyRecord, now_ms: int) -> str:
    if record.revoked_ms:
        return "revoked"
    return "expired" if record.expires_ms and now_ms >= record.expires_ms else "active"


def _info(record: KeyRecord, now_ms: int) -> KeyInfo:
    return KeyInfo(
        id=record.id,
        tenant=record.tenant,
        principal=record.principal,
        label=record.label,
        created_ms=record.created_ms,
        expires_ms=record.expires_ms,
        state=_state(record, now_ms),
    )
