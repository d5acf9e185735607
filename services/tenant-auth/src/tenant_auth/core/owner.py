"""Whom the server's own token stands for (compatibility contract, section 5, ``auth_token``)."""

from mcp_proto.contracts.tenant_auth import Principal, Rule, Tenant

__all__ = [
    "OWNER_PRINCIPAL",
    "OWNER_TENANT",
    "STATIC_CREDENTIAL",
    "owner_principal",
    "owner_tenant",
]

OWNER_TENANT = "default"
OWNER_PRINCIPAL = "admin"
STATIC_CREDENTIAL = "static"


def owner_tenant() -> Tenant:
    """As it is created: every tool is allowed."""
    return Tenant(id=OWNER_TENANT, rules=(Rule(effect="allow", pattern="*"),), version=1)


def owner_principal() -> Principal:
    """As it is created."""
    return Principal(id=OWNER_PRINCIPAL, tenant=OWNER_TENANT, roles=("Admin",))
