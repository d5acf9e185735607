"""Who a credential is: ``authenticate``, ``login``, ``logout``.

Every refusal of a credential is the same error, whatever is wrong with it, and nothing is looked
up for one that is damaged: an answer tells nobody which keys, principals or tenants exist.
"""

import logging
import os
from collections.abc import Callable

import msgspec

from mcp_proto.contracts.tenant_auth import (
    Authenticate,
    CallerContext,
    Empty,
    Identity,
    KeyRecord,
    Login,
    LoginAnswer,
    Logout,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.tasks import Tasks, TasksFullError
from tenant_auth.config import TenantAuthConfig
from tenant_auth.core.demo import DEMO_CREDENTIAL, DEMO_PRINCIPAL, DEMO_TENANT
from tenant_auth.core.grants import Submitter
from tenant_auth.core.owner import OWNER_PRINCIPAL, OWNER_TENANT, STATIC_CREDENTIAL
from tenant_auth.core.policy import grant_of
from tenant_auth.core.sessions import LoginRecord, LoginState, needs_touch, opened, state_of
from tenant_auth.core.tokens import (
    ID_RANDOM_BYTES,
    SECRET_RANDOM_BYTES,
    ApiKey,
    Pepper,
    SessionToken,
    StaticToken,
    is_static,
    mac_matches,
    mac_of,
    new_session,
    parse,
)
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.grants import GrantStore
from tenant_auth.store.logins import LoginStore

__all__ = ["CLOSED_AFTER_S", "LOGINS_MAX", "LOGINS_PER_PRINCIPAL_MAX", "Credentials"]

CLOSED_AFTER_S = 30.0
"""Without proof for so long that the copies are current nobody is let in: a revocation may have
been missed."""

LOGINS_MAX = 50_000
LOGINS_PER_PRINCIPAL_MAX = 100

_log = logging.getLogger(__name__)


class Credentials:
    """Checks of credentials.

    Args:
        accounts: tenants, principals, keys.
        logins: sessions.
        grants: what tasks do in the name of their submitters.
        peppers: the first makes new MACs, all are accepted.
        config: environment, lifetimes, development.
        static: the server's own token; None = there is none.
        tasks: parent of the writes of last uses.
        now_ms: broker time, Unix ms.
        verify: reads a signed caller context; None = none is accepted.
    """

    def __init__(
        self,
        accounts: AccountStore,
        logins: LoginStore,
        grants: GrantStore,
        peppers: tuple[Pepper, ...],
        config: TenantAuthConfig,
        *,
        static: StaticToken | None = None,
        tasks: Tasks,
        now_ms: Callable[[], int],
        verify: Callable[[str], CallerContext] | None = None,
    ) -> None:
        self._verify = verify
        self._accounts = accounts
        self._logins = logins
        self._grants = grants
        self._peppers = peppers
        self._static = static
        self._env = config.security.env
        self._development = config.security.development
        self._lifetimes = config.sessions.lifetimes
        self._tasks = tasks
        self._now_ms = now_ms

    async def authenticate(self, params: Authenticate) -> Identity:
        """Check a credential; "" is the demo identity, in development only.

        Raises:
            MeshError: ``unauthenticated``; ``denied`` when the credential is good but not for
                ``params.tenant``; ``bus`` when the copies are too old to decide.
        """
        self._refuse_stale()
        identity = (
            await self._behind(params.context)
            if params.context
            else await self._identity(params.credential)
        )
        if params.tenant not in {"", identity.tenant}:
            raise MeshError(
                ErrorKind.DENIED,
                "the credential is not for this tenant",
                data={"missing": "membership of the tenant"},
            )
        return identity

    async def login(self, params: Login) -> LoginAnswer:
        """Open a session with an API key.

        Raises:
            MeshError: ``unauthenticated``, ``overloaded``, ``bus``.
        """
        self._refuse_stale()
        parsed = parse(params.credential, self._env)
        if not isinstance(parsed, ApiKey):
            raise _refused()
        key = await self._key(parsed)
        self._grant(key.tenant, key.principal, "", 0)
        full = (
            len(self._logins) >= LOGINS_MAX
            or self._logins.count(key.tenant, key.principal) >= LOGINS_PER_PRINCIPAL_MAX
        )
        if full:
            raise MeshError(ErrorKind.OVERLOADED, "too many open sessions", retry_after_s=60.0)
        while True:
            token, text = new_session(os.urandom(ID_RANDOM_BYTES), os.urandom(SECRET_RANDOM_BYTES))
            pepper = self._peppers[0]
            record = opened(
                login_id=token.id,
                tenant=key.tenant,
                principal=key.principal,
                key_id=key.id,
                key_expires_ms=key.expires_ms,
                mac=mac_of(token.body, pepper),
                pepper=pepper.name,
                now_ms=self._now_ms(),
                lifetimes=self._lifetimes,
            )
            if await self._logins.create(record):
                break
        return LoginAnswer(
            token=text,
            idle_s=record.idle_s,
            absolute_s=max(0, record.ends_ms - record.created_ms) // 1000,
        )

    async def logout(self, params: Logout) -> Empty:
        """End a session, here and in every gateway's cache.

        Raises:
            MeshError: ``unauthenticated``: no such session.
        """
        parsed = parse(params.token, self._env)
        if not isinstance(parsed, SessionToken):
            raise _refused()
        record = await self._logins.find(parsed.id)
        if not self._matches(parsed.body, record) or record is None:
            raise _refused()
        await self.end_login(record.id)
        return Empty()

    async def end_login(self, login_id: str) -> None:
        """Cut first, then delete: if only the first succeeds, a repeat still finds the login."""
        await self._accounts.cut_login(login_id, self._now_ms())
        await self._logins.delete(login_id)

    async def _identity(self, credential: str) -> Identity:
        if self._static is not None and is_static(credential, self._static):
            return self._grant(OWNER_TENANT, OWNER_PRINCIPAL, STATIC_CREDENTIAL, 0)
        if not credential:
            if not self._development:
                raise _refused()
            return self._grant(DEMO_TENANT, DEMO_PRINCIPAL, DEMO_CREDENTIAL, 0)
        parsed = parse(credential, self._env)
        match parsed:
            case ApiKey():
                key = await self._key(parsed)
                return self._grant(key.tenant, key.principal, f"key:{key.id}", key.expires_ms)
            case SessionToken():
                login = await self._login(parsed)
                return self._grant(
                    login.tenant, login.principal, f"login:{login.id}", login.ends_ms
                )
            case None:
                raise _refused()

    async def submitter(self, context: CallerContext) -> Submitter:
        """Who submits a task under a verified context, and the credential that outlasts it.

        Raises:
            MeshError: ``unauthenticated``, ``bus``.
        """
        identity = await self.standing(context.tid, context.sub, context.cid)
        kind, _, name = context.cid.partition(":")
        cid = context.cid
        if kind == "login":
            login = await self._logins.find(name)
            if login is None:
                raise _refused()
            kind, name = "key", login.key_id
            cid = f"key:{name}"
        key = await self._accounts.find_key(name) if kind == "key" else None
        expires_ms = key.expires_ms if key is not None else 0
        return Submitter(identity=identity, cid=cid, expires_ms=expires_ms)

    async def standing(self, tenant: str, principal: str, cid: str) -> Identity:
        """What a principal is now, as long as the credential behind it counts.

        Raises:
            MeshError: ``unauthenticated``; ``bus`` when the copies are too old to decide.
        """
        self._refuse_stale()
        now_ms = self._now_ms()
        kind, _, name = cid.partition(":")
        match kind:
            case "key":
                await self._living_key(name, now_ms)
            case "login":
                login = await self._logins.find(name)
                if login is None or state_of(login, now_ms) is not LoginState.ACTIVE:
                    raise _refused()
                await self._living_key(login.key_id, now_ms)
            case "static" if self._static is not None:
                pass
            case "demo" if self._development:
                pass
            case _:
                raise _refused()
        return self._grant(tenant, principal, cid, 0)

    async def _living_key(self, name: str, now_ms: int) -> None:
        key = await self._accounts.find_key(name)
        if key is None or not _alive(key, now_ms):
            raise _refused()

    async def _behind(self, token: str) -> Identity:
        """Who a signed context is for; it counts no longer than the credential behind it."""
        if self._verify is None:
            raise _refused()
        context = self._verify(token)
        identity = await self.standing(context.tid, context.sub, context.cid)
        if context.gid and await self._grants.find(context.gid) is None:
            raise _refused()
        return msgspec.structs.replace(
            identity, expires_ms=context.exp, chain=context.chain, grant_id=context.gid
        )

    async def _key(self, parsed: ApiKey) -> KeyRecord:
        record = await self._accounts.find_key(parsed.id)
        if not self._matches(parsed.body, record) or record is None:
            raise _refused()
        if not _alive(record, self._now_ms()):
            raise _refused()
        return record

    async def _login(self, parsed: SessionToken) -> LoginRecord:
        record = await self._logins.find(parsed.id)
        if not self._matches(parsed.body, record) or record is None:
            raise _refused()
        now_ms = self._now_ms()
        if state_of(record, now_ms) is not LoginState.ACTIVE:
            raise _refused()
        key = await self._accounts.find_key(record.key_id)
        if key is None or not _alive(key, now_ms):
            raise _refused()
        if needs_touch(record, now_ms):
            self._touch(record.id, now_ms)
        return record

    def _matches(self, body: str, record: KeyRecord | LoginRecord | None) -> bool:
        # An unknown id costs the same comparison as a known one.
        mac, pepper = (record.mac, record.pepper) if record is not None else ("", "")
        return mac_matches(body, mac, pepper, self._peppers)

    def _grant(
        self, tenant_id: str, principal_id: str, credential_id: str, expires_ms: int
    ) -> Identity:
        tenant = self._accounts.tenant(tenant_id)
        principal = self._accounts.principal(tenant_id, principal_id)
        if tenant is None or not tenant.enabled or principal is None or not principal.enabled:
            raise _refused()
        if tenant.id == DEMO_TENANT and not self._development:
            # Left over from development: it must not open a door anywhere else.
            raise _refused()
        return Identity(
            tenant=tenant.id,
            principal=principal.id,
            roles=principal.roles,
            grant=grant_of(tenant, principal),
            credential_id=credential_id,
            expires_ms=expires_ms,
        )

    def _touch(self, login_id: str, now_ms: int) -> None:
        try:
            self._tasks.spawn(self._logins.touch(login_id, now_ms), name="login-touch")
        except TasksFullError:
            _log.warning("the last use of a login was not written")

    def _refuse_stale(self) -> None:
        age_s = max(self._accounts.age_s, self._logins.age_s)
        if age_s > CLOSED_AFTER_S:
            raise MeshError(
                ErrorKind.BUS,
                "credentials cannot be checked at present",
                retry_after_s=1.0,
                internal=f"copies are {age_s:.0f} s old",
            )


def _alive(record: KeyRecord, now_ms: int) -> bool:
    return not record.revoked_ms and (not record.expires_ms or now_ms < record.expires_ms)


def _refused() -> MeshError:
    return MeshError(ErrorKind.UNAUTHENTICATED, "the credential is not accepted")
