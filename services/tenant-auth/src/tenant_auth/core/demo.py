"""The development tenant (compatibility contract, section 4)."""

from mcp_proto.contracts.tenant_auth import Principal, Rule, Tenant

__all__ = ["DEMO_CREDENTIAL", "DEMO_PRINCIPAL", "DEMO_TENANT", "demo_principal", "demo_tenant"]

DEMO_TENANT = "demo-tenant"
DEMO_PRINCIPAL = "user-demo-123"
DEMO_CREDENTIAL = "demo"


def demo_tenant() -> Tenant:
    """As it is created: every tool is allowed."""
    return Tenant(
        id=DEMO_TENANT,
        rules=(Rule(effect="allow", pattern="*"),),
        settings={"region": "us-west-2"},
        version=1,
    )


def demo_principal() -> Principal:
    """As it is created."""
    return Principal(id=DEMO_PRINCIPAL, tenant=DEMO_TENANT, roles=("Admin",))
