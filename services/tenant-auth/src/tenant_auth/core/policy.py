"""Roles, rules and what follows from them for one principal.

The grant is computed here once; who matches names against it is ``mcp_proto.policy``, the same
function for lists and calls.
"""

from collections.abc import Iterable

from mcp_proto.contracts.tenant_auth import Grant, Principal, Role, Rule, Tenant
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_tenant_id
from mcp_proto.limits import NAME_CHARS_MAX

__all__ = [
    "DEFAULT_RULES",
    "ROLES",
    "check_principal",
    "check_tenant",
    "grant_of",
]

_VIEWER = frozenset({"ReadKV", "GetArtifacts", "ListArtifacts", "ReadEvents"})
_USER = _VIEWER | {"WriteKV", "PutArtifacts", "SendEvents", "CallTools"}
_ADMIN = _USER | {"Machines", "Manage"}

ROLES = {
    role.name: role
    for role in (
        Role(name="Admin", permissions=_ADMIN),
        Role(name="User", permissions=_USER),
        Role(name="Viewer", permissions=_VIEWER),
    )
}
"""Role name → permissions (compatibility contract, section 4)."""

DEFAULT_RULES = (
    Rule(effect="allow", pattern="kv:*"),
    Rule(effect="allow", pattern="artifacts:*"),
    Rule(effect="allow", pattern="events:*"),
    Rule(effect="allow", pattern="echo:*"),
)
"""Rules of a tenant created without any: the built-in tools; every other server is denied."""

_RULES_MAX = 1_000
_PATTERN_CHARS_MAX = 2 * NAME_CHARS_MAX + 1
_FILTER_NAMES_MAX = 1_000
_SETTINGS_MAX = 64
_SETTING_CHARS_MAX = 1_024
_ROLES_MAX = 16


def grant_of(tenant: Tenant, principal: Principal) -> Grant:
    """What ``principal`` may do: permissions of its roles, and the rules that apply to it.

    A rule applies when both its filters do: no roles named or one of the principal's, and no
    principals named or this one. Unknown roles give nothing.
    """
    roles = frozenset(principal.roles)
    permissions: frozenset[str] = frozenset()
    for name in roles:
        if name in ROLES:
            permissions |= ROLES[name].permissions
    applying = [rule for rule in tenant.rules if _applies(rule, principal.id, roles)]
    return Grant(
        permissions=permissions,
        allow=_patterns(applying, "allow"),
        deny=_patterns(applying, "deny"),
    )


def _applies(rule: Rule, principal: str, roles: frozenset[str]) -> bool:
    by_role = not rule.roles or not roles.isdisjoint(rule.roles)
    return by_role and (not rule.principals or principal in rule.principals)


def _patterns(rules: Iterable[Rule], effect: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule.pattern for rule in rules if rule.effect == effect))


def check_tenant(tenant: Tenant) -> None:
    """Check a tenant that is to be stored.

    Raises:
        MeshError: ``params`` with the reason.
    """
    if not is_tenant_id(tenant.id):
        raise _refused("tenant ids have 1 to 40 of a-z, 0-9 and '-'")
    if len(tenant.rules) > _RULES_MAX:
        raise _refused(f"a tenant has at most {_RULES_MAX} rules")
    for rule in tenant.rules:
        _check_rule(rule)
    if len(tenant.settings) > _SETTINGS_MAX:
        raise _refused(f"a tenant has at most {_SETTINGS_MAX} settings")
    for name, value in tenant.settings.items():
        if not 1 <= len(name) <= NAME_CHARS_MAX or len(value) > _SETTING_CHARS_MAX:
            raise _refused(
                f"settings have names of 1 to {NAME_CHARS_MAX} and values of at most "
                f"{_SETTING_CHARS_MAX} characters"
            )


def _check_rule(rule: Rule) -> None:
    if rule.effect not in {"allow", "deny"}:
        raise _refused("the effect of a rule is allow or deny")
    if not 1 <= len(rule.pattern) <= _PATTERN_CHARS_MAX:
        raise _refused(f"patterns have 1 to {_PATTERN_CHARS_MAX} characters")
    if ":" not in rule.pattern and "*" not in rule.pattern:
        # Without a colon or a star it can match no `server:tool` at all: a deny would be void.
        raise _refused("patterns are globs over server:tool, such as notes:read_* or notes:*")
    if max(len(rule.roles), len(rule.principals)) > _FILTER_NAMES_MAX:
        raise _refused(f"a rule names at most {_FILTER_NAMES_MAX} roles or principals")
    unknown = sorted(set(rule.roles) - ROLES.keys())
    if unknown:
        raise _refused(f"unknown role {unknown[0]!r}; roles are {_role_names()}")


def check_principal(principal: Principal) -> None:
    """Check a principal that is to be stored.

    Raises:
        MeshError: ``params`` with the reason.
    """
    if not 1 <= len(principal.id) <= NAME_CHARS_MAX or not principal.id.isprintable():
        raise _refused(f"principal ids have 1 to {NAME_CHARS_MAX} printable characters")
    if not is_tenant_id(principal.tenant):
        raise _refused("tenant ids have 1 to 40 of a-z, 0-9 and '-'")
    if not 1 <= len(principal.roles) <= _ROLES_MAX:
        raise _refused(f"a principal has 1 to {_ROLES_MAX} roles")
    unknown = sorted(set(principal.roles) - ROLES.keys())
    if unknown:
        raise _refused(f"unknown role {unknown[0]!r}; roles are {_role_names()}")


def _role_names() -> str:
    return ", ".join(sorted(ROLES))


def _refused(reason: str) -> MeshError:
    return MeshError(ErrorKind.PARAMS, reason)
