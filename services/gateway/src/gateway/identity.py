"""From a credential to a caller: asked once, remembered for seconds, forgotten at once when cut.

``tenant-auth`` decides; its answer is kept by the SHA-256 of the credential. A watch of
``mesh_config`` cuts what it concerns the moment a key is revoked or a tenant, principal or role
changes, and closes the door when the watch itself can no longer be trusted. So a request costs a
dictionary lookup, and a revocation is in force within a second.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.access import grant_digest
from gateway.store import Viewer
from mcp_proto.contracts.tenant_auth import CallerContext, Identity, KeyRecord
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM, decode_token
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["CREDENTIAL_CHARS_MAX", "Authenticator", "Caller", "Identities", "SignedContext"]

CREDENTIAL_CHARS_MAX = 4_096
"""A longer credential is refused before anything looks at it; keys have about 80 characters."""

POSITIVE_S = 30.0
"""How long an identity is believed without asking again."""
REFRESH_S = 20.0
"""Age from which it is asked for again, beside the requests that use it."""
SETTLE_S = 3.0
"""After a cut, answers are believed for ``SETTLED_S`` only: tenant-auth hears of a change through
a watch of its own and may still answer from before it."""
SETTLED_S = 0.5
STRANDED_S = 5.0
"""Age up to which an identity serves while tenant-auth cannot be asked again: a restart of it
costs no call, and what changed meanwhile is in force within this time under that one fault."""
NEGATIVE_S = 5.0
ENTRIES_MAX = 50_000
NEGATIVES_MAX = 10_000
FRESH_S = 30.0
"""Longest time without proof that the watch works."""
PROBE_EVERY_S = 5.0
"""How often tenant-auth is asked for the sake of readiness when no caller makes us ask."""
CONTEXT_ASK_S = 10.0
"""The signer renews a context in time; this keeps even the question out of most calls."""

_AWAY = frozenset({ErrorKind.NO_RUNNER, ErrorKind.DEADLINE, ErrorKind.LOST, ErrorKind.BUS})
"""How it shows that tenant-auth cannot be asked; anything else is its answer."""

Authenticator = Callable[[str, str], Awaitable[Identity]]
"""(credential, tenant) → identity; raises ``MeshError``."""
Signer = Callable[[CallerContext], str]

_log = logging.getLogger(__name__)


class SignedContext(str):
    """A caller context that an agent passes on, in the place of a credential.

    A type of its own: no text that comes in at an edge can be one.
    """

    __slots__ = ()


class Caller:
    """Who a request comes from. One object per credential; its identity is renewed in place."""

    __slots__ = ("_context", "_renew_at", "_sign", "ended", "identity", "issuer", "viewer")

    def __init__(self, identity: Identity, *, sign: Signer, issuer: str) -> None:
        self._sign = sign
        self._context = ""
        self._renew_at = 0.0
        self.issuer = issuer
        self.ended: dict[Callable[[], None], None] = {}
        """Called when the credential is no longer good: streams that outlive requests end."""
        self.renew(identity)

    def renew(self, identity: Identity) -> None:
        """Take over a newer answer of tenant-auth."""
        self.identity = identity
        self.viewer = Viewer(
            tenant=identity.tenant,
            grant=identity.grant,
            digest=grant_digest(identity.grant, identity.roles),
            roles=identity.roles,
        )
        self._renew_at = 0.0

    @property
    def tenant(self) -> str:
        """Tenant of the caller."""
        return self.identity.tenant

    @property
    def principal(self) -> str:
        """Principal of the caller."""
        return self.identity.principal

    def context(self, now: float) -> str:
        """The signed caller context for the bus.

        Args:
            now: monotonic seconds.

        Raises:
            MeshError: ``unauthenticated`` (the credential ended), ``bus`` (no signing key yet).
        """
        if now >= self._renew_at:
            identity = self.identity
            self._context = self._sign(
                CallerContext(
                    tid=identity.tenant,
                    sub=identity.principal,
                    roles=identity.roles,
                    exp=identity.expires_ms,
                    iss=self.issuer,
                    perms=tuple(sorted(identity.grant.permissions)),
                    cid=identity.credential_id,
                    chain=identity.chain,
                    gid=identity.grant_id,
                )
            )
            self._renew_at = now + CONTEXT_ASK_S
        return self._context


class _Entry:
    __slots__ = ("caller", "checked", "good_until", "refreshing")

    def __init__(self, caller: Caller, checked: float, good_until: float) -> None:
        self.caller = caller
        self.checked = checked
        self.good_until = good_until
        self.refreshing = False


class Identities:
    """The cache of checked credentials.

    Args:
        authenticate: asks tenant-auth.
        sign: signs a caller context.
        issuer: ``iss`` of contexts, this gateway's instance.
        tasks: parent of refreshes.
        open_to_demo: an absent credential is the demo principal (development only).
        age_s: seconds since the watch of ``mesh_config`` last proved that it works.
        clock: the clock.
    """

    def __init__(
        self,
        *,
        authenticate: Authenticator,
        sign: Signer,
        issuer: str,
        tasks: Tasks,
        open_to_demo: bool,
        age_s: Callable[[], float],
        clock: Clock = SYSTEM,
    ) -> None:
        self._authenticate = authenticate
        self._sign = sign
        self._issuer = issuer
        self._tasks = tasks
        self._open_to_demo = open_to_demo
        self._age_s = age_s
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._negatives: OrderedDict[bytes, tuple[float, MeshError]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller | MeshError]] = {}
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._cuts = 0
        self._cut_at = float("-inf")
        self._answered_at = clock.monotonic()

    @property
    def unanswered(self) -> bool:
        """Whether tenant-auth is away for so long that no identity is believed any more."""
        return self._clock.monotonic() - self._answered_at > POSITIVE_S

    @property
    def stale(self) -> bool:
        """Whether the watch of ``mesh_config`` has not proved itself for too long."""
        return self._age_s() > FRESH_S

    async def probe(self) -> None:
        """Ask tenant-auth now and then, so that ``unanswered`` is true without callers; for ever.

        A gateway that is not ready gets no callers who would find out that it works again.
        """
        while True:
            if self._clock.monotonic() - self._answered_at >= PROBE_EVERY_S:
                with contextlib.suppress(MeshError):
                    await self._asked("", "")
            await asyncio.sleep(PROBE_EVERY_S / 2)

    def known(self, credential: str, tenant: str = "") -> Caller | None:
        """The caller if the credential is remembered as good: no waiting, a microsecond.

        Raises:
            MeshError: ``no_runner`` when freshness is lost.
        """
        key = _key(credential, tenant)
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock.monotonic()
        if now >= entry.good_until:
            return None
        if self.stale:
            raise _stale()
        if now - entry.checked > REFRESH_S and not entry.refreshing:
            self._refresh(key, entry, credential, tenant)
        return entry.caller

    async def caller(self, credential: str, tenant: str = "") -> Caller:
        """Check a credential.

        Args:
            credential: token or key; "" = none.
            tenant: a tenant the client names; it must be one the credential allows.

        Raises:
            MeshError: ``unauthenticated``, ``denied``, ``no_runner`` (tenant-auth away or the
                watch stale), ``deadline``.
        """
        known = self.known(credential, tenant)
        if known is not None:
            return known
        if not credential and not self._open_to_demo:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "a credential is required")
        if len(credential) > CREDENTIAL_CHARS_MAX or not credential.isascii():
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the credential is malformed")
        return await self._checked(_key(credential, tenant), credential, tenant)

    async def delegated(self, context: str, tenant: str) -> Caller:
        """Whose call an agent serves, when it asks for something in that caller's name.

        Args:
            context: the signed caller context of the call it serves.
            tenant: of the subject; the context must be for it.

        Raises:
            MeshError: as ``caller``.
        """
        if len(context) > CREDENTIAL_CHARS_MAX or not context.isascii():
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the caller context is malformed")
        credential = SignedContext(context)
        known = self.known(credential, tenant)
        return known or await self._checked(_key(credential, tenant), credential, tenant)

    async def _checked(self, key: bytes, credential: str, tenant: str) -> Caller:
        if self.stale:
            raise _stale()
        refused = self._negatives.get(key)
        if refused is not None and self._clock.monotonic() < refused[0]:
            raise refused[1]
        asking = self._asking.get(key)
        if asking is None:
            try:
                asking = self._tasks.spawn(
                    self._answered(key, credential, tenant), name="authenticate"
                )
            except TasksFullError:
                raise MeshError(
                    ErrorKind.OVERLOADED, "too many checks of credentials", retry_after_s=1.0
                ) from None
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        # Shielded: the check serves all who wait for it, whoever of them gives up.
        outcome = await asyncio.shield(asking)
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    async def _answered(self, key: bytes, credential: str, tenant: str) -> Caller | MeshError:
        try:
            return await self._ask(key, credential, tenant)
        except MeshError as error:
            if error.kind in {ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED}:
                self._negatives[key] = (self._clock.monotonic() + NEGATIVE_S, error)
                while len(self._negatives) > NEGATIVES_MAX:
                    self._negatives.popitem(last=False)
                self._end(self._entries.pop(key, None))
            if error.kind in _AWAY:
                return self._stranded(key) or _unasked(error)
            return error

    def _stranded(self, key: bytes) -> Caller | None:
        """The caller as last known, while that is recent and nothing has cut it since."""
        entry = self._entries.get(key)
        now = self._clock.monotonic()
        if entry is None or now - entry.checked > STRANDED_S:
            return None
        # Not asked again by every request: each question may last until its time is over.
        entry.good_until = min(now + SETTLED_S, entry.checked + STRANDED_S)
        return entry.caller

    async def _ask(self, key: bytes, credential: str, tenant: str) -> Caller:
        cuts = self._cuts
        identity = await self._asked(credential, tenant)
        if cuts != self._cuts:
            # Something was cut while we asked: the answer may be from before.
            identity = await self._asked(credential, tenant)
        if not self._revoked.keys().isdisjoint(_named(identity)):
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the credential is revoked")
        now = self._clock.monotonic()
        life = SETTLED_S if now - self._cut_at < SETTLE_S else POSITIVE_S
        if identity.expires_ms:
            life = min(life, (identity.expires_ms - self._clock.now_ms()) / 1000)
        entry = self._entries.get(key)
        if entry is None:
            caller = Caller(identity, sign=self._sign, issuer=self._issuer)
            entry = self._entries[key] = _Entry(caller, now, now + life)
            while len(self._entries) > ENTRIES_MAX:
                self._end(self._entries.popitem(last=False)[1])
        else:
            entry.caller.renew(identity)
            entry.checked, entry.good_until = now, now + life
        self._entries.move_to_end(key)
        return entry.caller

    async def _asked(self, credential: str, tenant: str) -> Identity:
        try:
            identity = await self._authenticate(credential, tenant)
        except MeshError as error:
            if error.kind not in _AWAY:
                self._answered_at = self._clock.monotonic()
            raise
        self._answered_at = self._clock.monotonic()
        return identity

    def _refresh(self, key: bytes, entry: _Entry, credential: str, tenant: str) -> None:
        entry.refreshing = True

        async def refresh() -> None:
            try:
                await self._answered(key, credential, tenant)
            finally:
                entry.refreshing = False

        try:
            self._tasks.spawn(refresh(), name="refresh-identity")
        except TasksFullError:
            entry.refreshing = False

    # What the watch of mesh_config calls ----------------------------------------------------

    def feed(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take one entry of ``mesh_config``: forget every identity that it may concern."""
        try:
            kind, *names = key.split(".")
            names = [name if name == PLATFORM else decode_token(name) for name in names]
        except ValueError:
            return
        if (kind, names[:1]) == ("cut", ["grant"]):
            # Every task that ends says so: it must not shake what is known of anybody else.
            self._feed_revoked(*(f"grant:{one}" for one in names[1:]), revoked=value is not None)
            return
        self._cuts += 1
        self._cut_at = self._clock.monotonic()
        self._negatives.clear()
        match kind, names:
            case "key", [key_id]:
                self._feed_key(key_id, value)
            case "tenant", [tenant]:
                self._cut(lambda identity: identity.tenant == tenant)
            case "principal", [tenant, principal]:
                self._cut(lambda one: (one.tenant, one.principal) == (tenant, principal))
            case "cut", [what, name]:
                self._feed_revoked(f"{what}:{name}", revoked=value is not None)
            case _:
                self._cut(lambda _: True)

    def _feed_key(self, key_id: str, value: bytes | None) -> None:
        credential_id = f"key:{key_id}"
        revoked = value is None
        if value is not None:
            try:
                revoked = msgspec.json.decode(value, type=KeyRecord).revoked_ms > 0
            except msgspec.DecodeError:
                revoked = True
        self._feed_revoked(credential_id, revoked=revoked)

    def _feed_revoked(self, *credentials: str, revoked: bool) -> None:
        for credential_id in credentials:
            if revoked:
                self._revoked[credential_id] = None
            else:
                self._revoked.pop(credential_id, None)
        while len(self._revoked) > ENTRIES_MAX:
            self._revoked.popitem(last=False)
        named = frozenset(credentials)
        self._cut(lambda identity: not named.isdisjoint(_named(identity)))

    def cut_all(self) -> None:
        """Forget everything: the watch starts over and may have missed a change."""
        self._cuts += 1
        self._cut_at = self._clock.monotonic()
        self._cut(lambda _: True)

    def _cut(self, concerns: Callable[[Identity], bool]) -> None:
        hit = [key for key, entry in self._entries.items() if concerns(entry.caller.identity)]
        for key in hit:
            self._end(self._entries.pop(key))

    def _end(self, entry: _Entry | None) -> None:
        if entry is None:
            return
        ended, entry.caller.ended = entry.caller.ended, {}
        for end in tuple(ended):
            end()

    def __len__(self) -> int:
        """Identities remembered."""
        return len(self._entries)


def _named(identity: Identity) -> tuple[str, ...]:
    """What a cut may name to end an identity."""
    own = identity.credential_id
    return (own, f"grant:{identity.grant_id}") if identity.grant_id else (own,)


def _key(credential: str, tenant: str) -> bytes:
    if not credential:
        return b"demo:" + tenant.encode("utf-8", "replace")
    digest = hashlib.sha256(f"{tenant}\0{credential}".encode("utf-8", "replace")).digest()
    return b"context:" + digest if isinstance(credential, SignedContext) else digest


def _unasked(error: MeshError) -> MeshError:
    """Whatever became of the question, the caller's request has not begun."""
    return MeshError(
        # A broker that is away is no matter of tenant-auth: say what the call itself would say.
        ErrorKind.BUS if error.kind is ErrorKind.BUS else ErrorKind.NO_RUNNER,
        "credentials cannot be checked now",
        retry_after_s=1.0,
        internal=f"{error.kind}: {error.message}",
    )


def _stale() -> MeshError:
    return MeshError(
        ErrorKind.NO_RUNNER,
        "credentials cannot be checked: the mesh's configuration is out of reach",
        retry_after_s=1.0,
    )
