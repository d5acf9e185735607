"""Who calls: the signed context, or in development what the broker's rights let through."""

from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.callerctx import ContextVerifier

__all__ = ["Admission"]

UNSIGNED = "unsigned"
"""Principal of calls without a context, where those are accepted."""


class Admission:
    """Checks caller contexts.

    Args:
        bus: connected.
        allow_unsigned: accept calls without a signed context, and any before the keys are known.
    """

    def __init__(self, bus: Bus, *, allow_unsigned: bool) -> None:
        self.bus = bus
        self.unsigned = UNSIGNED
        self._allow_unsigned = allow_unsigned
        self._verifier: ContextVerifier | None = None

    def use(self, verifier: ContextVerifier) -> None:
        """Check contexts from now on."""
        self._verifier = verifier

    def admit(self, call: Call) -> CallerContext | None:
        """The caller; None for an unsigned call where that is allowed.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        context = self._verified(call.envelope.context or "")
        if context is not None and context.tid != call.subject.tenant:
            raise MeshError(ErrorKind.DENIED, "the caller context is for another tenant")
        return context

    def identify(self, token: str, tenant: str, principal: str) -> CallerContext | None:
        """The caller of an operation that names tenant and principal.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        context = self._verified(token)
        if context is not None and (context.tid, context.sub) != (tenant, principal):
            raise MeshError(ErrorKind.DENIED, "the caller context is for somebody else")
        return context

    def _verified(self, token: str) -> CallerContext | None:
        if token and self._verifier is not None:
            return self._verifier.verify(token)
        if self._allow_unsigned:
            return None
        if token:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "caller contexts cannot be checked yet")
        raise MeshError(ErrorKind.UNAUTHENTICATED, "the call carries no caller context")
