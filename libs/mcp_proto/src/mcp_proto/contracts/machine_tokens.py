"""Contract of ``tenant-auth`` with spawners: whom a machine is at the broker, and for how long."""

import msgspec

from mcp_proto.contracts import Operation
from mcp_proto.contracts.tenant_auth import SERVICE, Empty

__all__ = ["MachineIssue", "MachineIssued", "MachineRevoke", "MachineToken", "issue", "revoke"]


class MachineToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``machine.{vmId}`` in ``mesh_grants``: what is kept of the token of a machine.

    Whoever shows the token to the broker is a user with the rights of one agent until it expires.

    Attributes:
        vm_id: instance id of that agent.
        tenant: of that agent.
        names: servers it may be.
        digest: SHA-256 (hex) of the token.
        expires_ms: Unix ms at which it ends, and every connection that it opened.
    """

    vm_id: str
    tenant: str
    names: tuple[str, ...]
    digest: str
    expires_ms: int


class MachineIssue(msgspec.Struct, frozen=True, kw_only=True):
    """A token for the link of one machine; the one before it opens nothing any more.

    ``names``: servers that the agent inside may be; at least one.
    """

    vm_id: str
    tenant: str
    names: tuple[str, ...]
    live_s: int = 3600


class MachineIssued(msgspec.Struct, frozen=True, kw_only=True):
    """``token``: for ``auth_token`` of CONNECT, until ``expires_ms`` (Unix ms).

    ``live_s``: the same as a span; at its end the broker closes what the token opened.
    """

    token: str
    expires_ms: int
    live_s: int

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "MachineIssued(…)"


class MachineRevoke(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's token opens nothing any more; repeating it is harmless."""

    vm_id: str


issue = Operation(SERVICE, "machine-issue", MachineIssue, MachineIssued)
revoke = Operation(SERVICE, "machine-revoke", MachineRevoke, Empty)
