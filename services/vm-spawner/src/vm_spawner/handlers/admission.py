"""Who calls a tool: the signed context, or in development what the broker's rights let through."""

from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.call import Call
from mesh_chassis.callerctx import ContextVerifier

__all__ = ["PERMISSION", "Admission"]

PERMISSION = "Machines"
"""What a caller of any of these tools needs."""
UNSIGNED = "unsigned"
"""Principal of calls without a context, where those are accepted."""


class Admission:
    """Checks caller contexts.

    Args:
        allow_unsigned: accept calls without a signed context, and any before the keys are known.
    """

    def __init__(self, *, allow_unsigned: bool) -> None:
        self._allow_unsigned = allow_unsigned
        self._verifier: ContextVerifier | None = None

    def use(self, verifier: ContextVerifier) -> None:
        """Check contexts from now on."""
        self._verifier = verifier

    def principal(self, call: Call) -> str:
        """Who calls, if they may.

        Raises:
            MeshError: ``unauthenticated``; ``denied``, naming the permission.
        """
        context = self._context(call.envelope.context or "")
        if context is None:
            return UNSIGNED
        if context.tid != call.subject.tenant:
            raise MeshError(ErrorKind.DENIED, "the caller context is for another tenant")
        if PERMISSION not in context.perms:
            raise MeshError(
                ErrorKind.DENIED,
                f"missing permission: {PERMISSION}",
                data={"permission": PERMISSION},
            )
        return context.sub

    def _context(self, token: str) -> CallerContext | None:
        if token and self._verifier is not None:
            return self._verifier.verify(token)
        if self._allow_unsigned:
            return None
        if token:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "caller contexts cannot be checked yet")
        raise MeshError(ErrorKind.UNAUTHENTICATED, "the call carries no caller context")
