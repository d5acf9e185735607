"""Who calls: the signed context of a call, checked as every service checks it."""

import asyncio

from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.callerctx import ContextVerifier
from mesh_chassis.keyring import KeyRing
from mesh_chassis.service import Service

__all__ = ["Admission"]

_RETRY_S = 1.0


class Admission:
    """Checks callers.

    Args:
        allow_unsigned: serve calls without a context, and any before the keys are known; the
            broker's rights on subjects then decide alone.
    """

    def __init__(self, *, allow_unsigned: bool) -> None:
        self._allow_unsigned = allow_unsigned
        self._verifier: ContextVerifier | None = None

    @classmethod
    async def open(cls, service: Service, *, allow_unsigned: bool) -> "Admission":
        """Learn the keys; in development later, where tenant-auth is not there yet.

        Raises:
            MeshError: the keys cannot be read.
        """
        admission = cls(allow_unsigned=allow_unsigned)

        async def learn() -> None:
            ring = await KeyRing.open(service.bus)
            service.on_stop(ring.close)
            admission._verifier = ContextVerifier(ring, clock_ms=service.bus.server_now_ms)

        async def learn_late() -> None:
            while True:
                try:
                    await learn()
                except MeshError:
                    await asyncio.sleep(_RETRY_S)
                else:
                    return

        if allow_unsigned:
            service.tasks.spawn(learn_late(), name="learn-keys")
        else:
            await learn()
        return admission

    def admit(self, call: Call) -> CallerContext | None:
        """The caller; None for an unsigned call where that is allowed.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        token = call.envelope.context
        verifier = self._verifier
        if not token or verifier is None:
            if self._allow_unsigned:
                return None
            what = "carries no caller context" if not token else "cannot be checked yet"
            raise MeshError(ErrorKind.UNAUTHENTICATED, f"the call {what}")
        context = verifier.verify(token)
        if context.tid != call.subject.tenant:
            raise MeshError(ErrorKind.DENIED, "the caller context is for another tenant")
        return context
