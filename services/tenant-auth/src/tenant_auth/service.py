"""Tenant-auth's table of contents: what it keeps, what it serves, what it looks after."""

from collections.abc import Awaitable, Callable

from mcp_proto.contracts import machine_tokens
from mcp_proto.contracts import tenant_auth as contract
from mcp_proto.contracts.tenant_auth import CallerContext, SealedKey, SealingKey
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.callerctx import ContextSigner, ContextVerifier
from mesh_chassis.keyring import KeyRing
from mesh_chassis.service import Service
from tenant_auth.config import SigningConfig, TenantAuthConfig, read_issuer, read_secrets
from tenant_auth.core.rotation import sealing_linger_s
from tenant_auth.handlers.administration import Administration
from tenant_auth.handlers.credentials import Credentials
from tenant_auth.handlers.delegation import Delegation
from tenant_auth.handlers.machines import QUESTION, Machines
from tenant_auth.reconciler import KeyRotation, Reconciler
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.grants import GrantStore
from tenant_auth.store.keyring import SEALING, SIGNING, KeyRingStore
from tenant_auth.store.logins import LoginStore
from tenant_auth.store.machines import MachineTokens

__all__ = ["NAME", "build"]

NAME = "tenant-auth"

AUTHENTICATE_SLOTS = 256
LOGIN_SLOTS = 8
"""Under a flood logins are refused first; whoever is logged in goes on."""
ADMIN_SLOTS = 8
GRANT_SLOTS = 64

_DAY_S = 86_400


async def build(service: Service, config: TenantAuthConfig) -> None:
    """Load the state and add every part to ``service``.

    Raises:
        ConfigError: a secret file is missing, readable by others or malformed.
        MeshError: buckets cannot be ensured or read.
    """
    bus, security = service.bus, config.security
    secrets = read_secrets(security)
    accounts = await AccountStore.open(bus)
    logins = await LoginStore.open(bus)
    grants = await GrantStore.open(bus)
    signing = await KeyRingStore.open(bus, secrets.kek, SIGNING)
    sealing = await KeyRingStore.open(bus, secrets.kek, SEALING)

    ring = await KeyRing.open(bus)
    service.on_stop(ring.close)
    verify = ContextVerifier(ring, clock_ms=bus.server_now_ms).verify
    credentials = Credentials(
        accounts,
        logins,
        grants,
        secrets.peppers,
        config,
        static=secrets.static,
        tasks=service.tasks,
        now_ms=bus.server_now_ms,
        verify=verify,
    )
    administration = Administration(
        accounts,
        logins,
        credentials.end_login,
        pepper=secrets.peppers[0],
        env=security.env,
        development=security.development,
        now_ms=bus.server_now_ms,
    )
    _serve(service, credentials, administration)
    signer = ContextSigner(ring, secrets.kek, clock_ms=bus.server_now_ms)
    _serve_grants(service, credentials, grants, accounts, sign=signer.sign, verify=verify)
    issuer = read_issuer(config.machines)
    if issuer is not None:
        _serve_machines(
            service,
            Machines(await MachineTokens.open(bus), issuer, now_ms=bus.server_now_ms),
        )
    service.add_health_check("accounts", lambda: accounts.fresh)
    service.add_health_check("logins", lambda: logins.fresh)
    service.add_health_check("keyring", lambda: signing.fresh and sealing.fresh)

    ensure: list[Callable[[], Awaitable[None]]] = []
    if security.development:
        ensure.append(administration.ensure_demo)
    if secrets.static is not None:
        ensure.append(administration.ensure_owner)
    rotations = _rotations(signing, sealing, config.signing, bus.server_now_ms)
    _look_after(service, Reconciler(rotations, accounts, ensure))
    for store in (accounts, logins, signing, sealing):
        service.on_stop(store.close)


def _look_after(service: Service, reconciler: Reconciler) -> None:
    service.on_start(reconciler.step)

    async def begin() -> None:
        service.tasks.spawn(reconciler.run(), name="reconciler", fatal=True)

    service.on_ready(begin)


def _rotations(
    signing: KeyRingStore[SealedKey],
    sealing: KeyRingStore[SealingKey],
    config: SigningConfig,
    now_ms: Callable[[], int],
) -> tuple[KeyRotation, KeyRotation]:
    every_s = round(config.rotation_days * _DAY_S)
    linger_s = sealing_linger_s(every_s)
    return (
        KeyRotation(signing, every_s=every_s, now_ms=now_ms),
        KeyRotation(sealing, every_s=every_s, now_ms=now_ms, linger_s=linger_s),
    )


def _serve(service: Service, credentials: Credentials, administration: Administration) -> None:
    bus = service.bus
    for endpoint in (
        serve_operation(
            bus, contract.authenticate, credentials.authenticate, slots=AUTHENTICATE_SLOTS
        ),
        serve_operation(bus, contract.login, credentials.login, slots=LOGIN_SLOTS),
        serve_operation(bus, contract.logout, credentials.logout, slots=LOGIN_SLOTS),
        serve_operation(bus, contract.tenant_put, administration.tenant_put, slots=ADMIN_SLOTS),
        serve_operation(bus, contract.tenant_list, administration.tenant_list, slots=ADMIN_SLOTS),
        serve_operation(
            bus, contract.principal_put, administration.principal_put, slots=ADMIN_SLOTS
        ),
        serve_operation(bus, contract.key_create, administration.key_create, slots=ADMIN_SLOTS),
        serve_operation(bus, contract.key_revoke, administration.key_revoke, slots=ADMIN_SLOTS),
        serve_operation(bus, contract.key_list, administration.key_list, slots=ADMIN_SLOTS),
    ):
        service.add_endpoint(endpoint)


def _serve_machines(service: Service, machines: Machines) -> None:
    bus = service.bus
    for endpoint in (
        serve_operation(bus, machine_tokens.issue, machines.issue, slots=GRANT_SLOTS),
        serve_operation(bus, machine_tokens.revoke, machines.revoke, slots=GRANT_SLOTS),
    ):
        service.add_endpoint(endpoint)

    async def listen() -> None:
        # Not an endpoint: the question is the broker's, not one of the mesh.
        asked = await bus.subscribe(QUESTION, machines.answer, queue=NAME)
        service.on_stop(asked.unsubscribe)

    service.on_start(listen)


def _serve_grants(
    service: Service,
    credentials: Credentials,
    grants: GrantStore,
    accounts: AccountStore,
    *,
    sign: Callable[[CallerContext], str],
    verify: Callable[[str], CallerContext],
) -> None:
    bus = service.bus
    delegation = Delegation(
        credentials,
        grants,
        accounts,
        sign=sign,
        verify=verify,
        issuer=service.instance,
        now_ms=bus.server_now_ms,
    )
    for endpoint in (
        serve_operation(bus, contract.delegate, delegation.delegate, slots=GRANT_SLOTS),
        serve_operation(bus, contract.exchange, delegation.exchange, slots=GRANT_SLOTS),
        serve_operation(bus, contract.revoke_grant, delegation.revoke_grant, slots=GRANT_SLOTS),
    ):
        service.add_endpoint(endpoint)
