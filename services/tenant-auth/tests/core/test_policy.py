"""What a principal may do follows from its roles and the rules that apply to it."""

import pytest

from mcp_proto.contracts.tenant_auth import Principal, Rule, Tenant
from mcp_proto.errors import ErrorKind, MeshError
from tenant_auth.core import policy


def principal(*roles: str, name: str = "ann") -> Principal:
    return Principal(id=name, tenant="acme", roles=roles)


def grant(rules: tuple[Rule, ...], who: Principal):
    return policy.grant_of(Tenant(id="acme", rules=rules), who)


def test_roles_have_the_permissions_of_the_contract() -> None:
    permissions = {name: role.permissions for name, role in policy.ROLES.items()}
    viewer = {"ReadKV", "GetArtifacts", "ListArtifacts", "ReadEvents"}
    user = viewer | {"WriteKV", "PutArtifacts", "SendEvents", "CallTools"}
    assert permissions == {"Viewer": viewer, "User": user, "Admin": user | {"Machines", "Manage"}}


def test_several_roles_add_up_and_unknown_ones_give_nothing() -> None:
    assert grant((), principal("Viewer", "User")).permissions == policy.ROLES["User"].permissions
    assert grant((), principal("Ghost")).permissions == frozenset()


def test_rules_apply_by_role_and_by_principal() -> None:
    rules = (
        Rule(effect="allow", pattern="kv:*"),
        Rule(effect="allow", pattern="notes:*", roles=("User", "Admin")),
        Rule(effect="deny", pattern="notes:delete", principals=("bob",)),
        Rule(effect="allow", pattern="ops:*", roles=("Admin",), principals=("ann",)),
    )
    ann, bob = grant(rules, principal("User")), grant(rules, principal("User", name="bob"))
    assert (ann.allow, ann.deny) == (("kv:*", "notes:*"), ())
    assert (bob.allow, bob.deny) == (("kv:*", "notes:*"), ("notes:delete",))
    assert grant(rules, principal("Viewer")).allow == ("kv:*",)
    assert "ops:*" in grant(rules, principal("Admin")).allow
    assert "ops:*" not in grant(rules, principal("Admin", name="bob")).allow


def test_tenant_without_rules_allows_nothing() -> None:
    assert grant((), principal("Admin")).allow == ()


@pytest.mark.parametrize(
    "tenant",
    [
        Tenant(id="Acme"),
        Tenant(id=""),
        Tenant(id="_"),
        Tenant(id="a", rules=(Rule(effect="maybe", pattern="a:*"),)),
        Tenant(id="a", rules=(Rule(effect="deny", pattern=""),)),
        Tenant(id="a", rules=(Rule(effect="deny", pattern="kv_set"),)),
        Tenant(id="a", rules=(Rule(effect="deny", pattern="a:" + "x" * 300),)),
        Tenant(id="a", rules=(Rule(effect="deny", pattern="a:*", roles=("Root",)),)),
        Tenant(id="a", rules=(Rule(effect="deny", pattern="a:*"),) * 1001),
        Tenant(id="a", settings={"": "x"}),
        Tenant(id="a", settings={"x": "y" * 1025}),
        Tenant(id="a", settings={str(n): "" for n in range(65)}),
    ],
)
def test_bad_tenant_is_refused(tenant: Tenant) -> None:
    with pytest.raises(MeshError) as caught:
        policy.check_tenant(tenant)
    assert caught.value.kind is ErrorKind.PARAMS


def test_good_tenant_and_principal_pass() -> None:
    policy.check_tenant(
        Tenant(id="acme-1", rules=policy.DEFAULT_RULES, settings={"region": "us-west-2"})
    )
    policy.check_principal(principal("User"))


@pytest.mark.parametrize(
    "bad",
    [
        principal(),
        principal("Root"),
        principal("User", name=""),
        principal("User", name="a\nb"),
        principal("User", name="x" * 129),
        Principal(id="a", tenant="A", roles=("User",)),
    ],
)
def test_bad_principal_is_refused(bad: Principal) -> None:
    with pytest.raises(MeshError):
        policy.check_principal(bad)
