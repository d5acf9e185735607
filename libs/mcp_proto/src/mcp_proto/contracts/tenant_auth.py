"""Contract of ``tenant-auth``: who a credential is, what it may do, and how that is changed."""

import msgspec

from mcp_proto.contracts import Operation

__all__ = [
    "GRANTS_REVOKED_MAX",
    "Authenticate",
    "CallerContext",
    "CreatedKey",
    "Cut",
    "Delegate",
    "Delegated",
    "Empty",
    "Exchange",
    "Exchanged",
    "Grant",
    "GrantRecord",
    "Identity",
    "KeyCreate",
    "KeyInfo",
    "KeyList",
    "KeyRecord",
    "KeyRevoke",
    "ListKeys",
    "ListTenants",
    "Login",
    "LoginAnswer",
    "Logout",
    "Principal",
    "PrincipalPut",
    "RevokeGrant",
    "Role",
    "Rule",
    "SealedKey",
    "SealingKey",
    "Tenant",
    "TenantList",
    "TenantPut",
    "authenticate",
    "delegate",
    "exchange",
    "key_create",
    "key_list",
    "key_revoke",
    "login",
    "logout",
    "principal_put",
    "revoke_grant",
    "tenant_list",
    "tenant_put",
]

SERVICE = "tenant-auth"

DELEGATION_DEPTH_MAX = 4
"""A task that a task makes is one deeper; deeper ones are refused."""

GRANTS_REVOKED_MAX = 8
"""Grants that one ``RevokeGrant`` ends: they are named in one key of ``mesh_config``."""


class Empty(msgspec.Struct, frozen=True):
    """An answer without content."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Name of a role (``Admin``, ``User``, ``Viewer``) with its permissions."""

    name: str
    permissions: frozenset[str]


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tool rule of a tenant. Deny wins; what no rule allows is denied.

    Attributes:
        effect: ``allow`` or ``deny``.
        pattern: glob (``*``, ``?``) over ``server:tool``, the resolved pair; never an alias.
        roles: roles it applies to; empty = all.
        principals: principals it applies to; empty = all.
    """

    effect: str
    pattern: str
    roles: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()


class Tenant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``tenant.{tenant}`` in ``mesh_config``. ``settings`` are free strings (region).

    ``version`` is counted by tenant-auth, 1 at creation.
    """

    id: str
    enabled: bool = True
    rules: tuple[Rule, ...] = ()
    settings: dict[str, str] = {}
    version: int = 0


class Principal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``principal.{tenant}.{principal}`` in ``mesh_config``."""

    id: str
    tenant: str
    roles: tuple[str, ...]
    enabled: bool = True


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``key.{id}`` in ``mesh_config``; gateways watch it to cut a revoked key.

    ``mac`` is HMAC-SHA-256 (hex) of the whole key, without its checksum, under the pepper named
    by ``pepper``.
    """

    id: str
    tenant: str
    principal: str
    mac: str
    pepper: str
    label: str = ""
    created_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """Value of ``cut.{kind}.{id}`` in ``mesh_config``: a credential that ended early.

    Logins live in a bucket that gateways may not read, so their end is told here, and here only.
    Delegated grants end the same way, some at once (``cut.grant.{id}.{id}…``, because every task
    that ends has one); their identities name them in ``grant_id``. A gateway keeps the set of cuts
    its watch of ``mesh_config`` shows and refuses ``credential_id`` while it is in it, also when an
    answer to ``authenticate`` arrives after the cut: that answer may have come from a replica whose
    own watch was a moment behind. The record is removed when every cached identity has ended by
    itself.

    What else ends a cached identity, seen by the same watch: ``key.{id}`` with ``revoked_ms``;
    any change of ``tenant.{tenant}``; any change of ``principal.{tenant}.{principal}``.
    """

    credential_id: str
    at_ms: int


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a principal may do, resolved by tenant-auth; one grant decides list and call alike."""

    permissions: frozenset[str] = frozenset()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Identity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A checked credential.

    Attributes:
        credential_id: ``key:<id>``, ``login:<id>``, ``static`` or ``demo``; what a revocation
            names.
        expires_ms: Unix ms after which the credential itself ends; 0 = never.
        chain: tasks in whose name this is done; see ``CallerContext``.
        grant_id: delegated grant behind it; "" = none.
    """

    tenant: str
    principal: str
    roles: tuple[str, ...]
    grant: Grant
    credential_id: str
    expires_ms: int = 0
    chain: tuple[str, ...] = ()
    grant_id: str = ""


class Authenticate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Check a credential. ``credential`` "" asks for the demo identity.

    ``tenant`` selects among the tenants the credential allows; another one is refused (denied).
    ``context`` is a signed caller context instead of a credential: whoever serves a caller asks
    for something in the caller's name (``Header.CONTEXT`` on a ``gw`` subject).
    """

    credential: str = ""
    tenant: str = ""
    context: str = ""

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Authenticate(…)"


class CallerContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Claims of ``Mesh-Ctx``, signed by a gateway, verified by every service.

    Wire form: ``<kid>.<base64url(JSON of this)>.<base64url(Ed25519 signature of both)>``.
    Times are Unix ms. ``sid`` is the MCP session, "" when there is none; ``cid`` the credential
    behind it, so that a revocation also ends what is done in its name. ``chain`` names the tasks
    in whose name this is done, outermost first; empty for a caller's own calls. ``gid`` is the
    delegated grant behind it, "" when there is none.
    """

    tid: str
    sub: str
    roles: tuple[str, ...]
    exp: int
    iss: str
    sid: str = ""
    perms: tuple[str, ...] = ()
    cid: str = ""
    chain: tuple[str, ...] = ()
    gid: str = ""


class SealedKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``sign.{kid}`` in ``mesh_keys``: a signing key, its private half sealed.

    ``sealed`` is nonce (12 bytes) + AES-256-GCM of the 32-byte Ed25519 seed under the key
    encryption key, AAD = ``sign.{kid}``; gateways hold that key, runners only use ``public``.
    A signer takes the newest key whose ``use_from_ms`` has passed; a verifier takes any listed.
    """

    kid: str
    public: bytes
    sealed: bytes
    created_ms: int
    use_from_ms: int


class SealingKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``seal.{kid}`` in ``mesh_keys``: a symmetric key, sealed.

    ``sealed`` is nonce (12 bytes) + AES-256-GCM of the 32-byte key under the key encryption key,
    AAD = ``seal.{kid}``. Gateways seal with it what clients carry for them (states of calls that
    wait for input, ids of relayed tasks): with the newest key whose ``use_from_ms`` has passed;
    they open with any listed.
    """

    kid: str
    sealed: bytes
    created_ms: int
    use_from_ms: int


class TenantPut(msgspec.Struct, frozen=True, kw_only=True):
    """Create or replace a tenant.

    ``expected_version`` -1 = whatever is there, 0 = must not exist, otherwise the version that
    is replaced; another one is refused. A tenant created without rules gets the default ones.
    """

    tenant: Tenant
    expected_version: int = -1


class PrincipalPut(msgspec.Struct, frozen=True, kw_only=True):
    """Create or replace a principal of an existing tenant."""

    principal: Principal


class KeyCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Create an API key; ``ttl_s`` 0 = no expiry."""

    tenant: str
    principal: str
    label: str = ""
    ttl_s: int = 0


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The only answer that ever carries the secret ``key``."""

    id: str
    key: str

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "CreatedKey(…)"


class KeyRevoke(msgspec.Struct, frozen=True, kw_only=True):
    """Revoke a key; in force at every gateway within a second."""

    id: str


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. ``state``: active, expired or revoked."""

    id: str
    tenant: str
    principal: str
    label: str
    created_ms: int
    expires_ms: int
    state: str


class ListKeys(msgspec.Struct, frozen=True, kw_only=True):
    """``tenant`` "" = all."""

    tenant: str = ""


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys sorted by tenant, principal, creation."""

    keys: tuple[KeyInfo, ...]


class ListTenants(msgspec.Struct, frozen=True, kw_only=True):
    """No parameters."""


class TenantList(msgspec.Struct, frozen=True, kw_only=True):
    """Tenants and principals, sorted by id."""

    tenants: tuple[Tenant, ...]
    principals: tuple[Principal, ...]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Exchange an API key for a session token with idle and absolute expiry."""

    credential: str

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Login(…)"


class LoginAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``token`` is a credential for ``authenticate``; times in seconds."""

    token: str
    idle_s: int
    absolute_s: int

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "LoginAnswer(…)"


class Logout(msgspec.Struct, frozen=True, kw_only=True):
    """End the session of ``token``; in force at every gateway within a second."""

    token: str

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Logout(…)"


class GrantRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``{id}`` in ``mesh_grants``: a task may act for its submitter. Times are Unix ms.

    What the submitter may do is not in it: each exchange looks at tenant, principal and key anew.

    Attributes:
        id: of the grant.
        tenant: of the submitter.
        principal: the submitter.
        cid: credential behind the submission; of a login its key, because a task outlives the
            session it was submitted in.
        roles: those of the submitter then; other ones later end the grant.
        chain: tasks that led here, outermost first; the last is the task itself.
        parents: grants of the tasks before it; each must stand for this one to stand.
        expires_ms: end of the task; the bucket forgets the record then.
    """

    id: str
    tenant: str
    principal: str
    cid: str
    roles: tuple[str, ...]
    chain: tuple[str, ...]
    parents: tuple[str, ...] = ()
    expires_ms: int


class Delegate(msgspec.Struct, frozen=True, kw_only=True):
    """Let a task act for its submitter until ``deadline_ms`` (Unix ms).

    ``context`` is the submitter's ``Mesh-Ctx``; ``denied`` for a chain that is too deep or that
    has the task already.
    """

    context: str
    task: str
    deadline_ms: int

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Delegate(…)"


class Delegated(msgspec.Struct, frozen=True, kw_only=True):
    """A grant, and what its first ``exchange`` would have given: a task that begins asks once.

    Attributes:
        grant: its id.
        expires_ms: when it ends by itself; not after the deadline asked for.
        context: as of ``Exchanged``; "" = ask for it.
        context_expires_ms: until when that one lives.
    """

    grant: str
    expires_ms: int
    context: str = ""
    context_expires_ms: int = 0

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Delegated(…)"


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh context for a grant; ``unauthenticated`` when it or what it stands on has ended."""

    grant: str


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """``context``: a ``Mesh-Ctx`` that lives until ``expires_ms`` (Unix ms), at most 5 minutes."""

    context: str
    expires_ms: int

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Exchanged(…)"


class RevokeGrant(msgspec.Struct, frozen=True, kw_only=True):
    """End grants now; repeating it is harmless.

    Attributes:
        grant: its id.
        others: further ones, all together at most ``GRANTS_REVOKED_MAX``.
    """

    grant: str
    others: tuple[str, ...] = ()


authenticate = Operation(SERVICE, "authenticate", Authenticate, Identity)
tenant_put = Operation(SERVICE, "tenant-put", TenantPut, Empty)
tenant_list = Operation(SERVICE, "tenant-list", ListTenants, TenantList)
principal_put = Operation(SERVICE, "principal-put", PrincipalPut, Empty)
key_create = Operation(SERVICE, "key-create", KeyCreate, CreatedKey)
key_revoke = Operation(SERVICE, "key-revoke", KeyRevoke, Empty)
key_list = Operation(SERVICE, "key-list", ListKeys, KeyList)
login = Operation(SERVICE, "login", Login, LoginAnswer)
logout = Operation(SERVICE, "logout", Logout, Empty)
delegate = Operation(SERVICE, "delegate", Delegate, Delegated)
exchange = Operation(SERVICE, "exchange", Exchange, Exchanged)
revoke_grant = Operation(SERVICE, "revoke-grant", RevokeGrant, Empty)
