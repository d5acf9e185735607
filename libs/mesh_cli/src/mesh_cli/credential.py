"""The first credential of a mesh that asks for one: a tenant, an admin, a key in a file.

Without it nobody could call a mesh whose ``auth_enabled`` is true, not even to prove that it
works. The file lies beside the other keys and is readable by its owner only. Where the user chose
a token for the server, that one is the credential and nothing is made.
"""

import asyncio
from pathlib import Path

from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.tenant_auth import (
    KeyCreate,
    Principal,
    PrincipalPut,
    Rule,
    Tenant,
    TenantPut,
)
from mesh_chassis.bus.connection import Bus
from mesh_cli.bootstrap import write_private
from mesh_cli.failure import Failure
from mesh_cli.options import Target
from mesh_cli.plan import FIRST_TENANT
from mesh_cli.platform import operator_bus
from mesh_cli.state import StateDir

__all__ = ["FIRST_PRINCIPAL", "first_credential"]

FIRST_PRINCIPAL = "admin"
_PAUSE_S = 0.2


async def first_credential(state: StateDir, nats_port: int) -> Path:
    """The file with the owner's credential: the server's own token, or a key made once and kept.

    Waits for tenant-auth as long as it takes; cancel to give up.
    """
    path = state.credential
    target = Target(urls=(f"nats://127.0.0.1:{nats_port}",), nkey=str(state.seed("operator")))
    while not path.exists():
        try:
            async with operator_bus(target) as bus:
                write_private(path, f"{await _make(bus)}\n")
        except Failure:
            await asyncio.sleep(_PAUSE_S)
    return path


async def _make(bus: Bus) -> str:
    listed = await bus.operation(tenant_auth.tenant_list, tenant_auth.ListTenants())
    if FIRST_TENANT not in {tenant.id for tenant in listed.tenants}:
        tenant = Tenant(id=FIRST_TENANT, rules=(Rule(effect="allow", pattern="*"),))
        await bus.operation(tenant_auth.tenant_put, TenantPut(tenant=tenant))
    principal = Principal(id=FIRST_PRINCIPAL, tenant=FIRST_TENANT, roles=("Admin",))
    await bus.operation(tenant_auth.principal_put, PrincipalPut(principal=principal))
    made = await bus.operation(
        tenant_auth.key_create,
        KeyCreate(tenant=FIRST_TENANT, principal=FIRST_PRINCIPAL, label="made by mesh up"),
    )
    return made.key
