"""The one error of a client: what failed, whether the call may have run, when to try again.

It is the mesh's own error with the code that stood on the wire, so that an agent whose handler
lets one through answers its caller with the same kind and outcome.
"""

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome

__all__ = ["ErrorKind", "MeshCallError", "Outcome"]


class MeshCallError(MeshError):
    """A call that failed.

    Attributes:
        kind: what went wrong (``ErrorKind``, a string: ``"no_runner"``, ``"denied"``, …).
        code: JSON-RPC code as it stood on the wire.
        message: public text.
        data: further members, such as ``missing`` of a denial.
        outcome: ``not_executed`` (safe to repeat), ``unknown`` (may have run) or ``executed``.
        retry_after_s: how long to wait before a repeat can help, in seconds; None = no advice.
    """

    _code: int | None = None

    @property
    def code(self) -> int:
        """JSON-RPC code as it stood on the wire; that of the kind when nothing answered."""
        return super().code if self._code is None else self._code

    @property
    def safe_to_repeat(self) -> bool:
        """Whether it is proven that nothing ran."""
        return self.outcome is Outcome.NOT_EXECUTED

    @classmethod
    def of_answer(cls, error: ErrorObject, *, http_status: int | None = None) -> "MeshCallError":
        """From the ``error`` member of an answer.

        Args:
            error: as it stood on the wire.
            http_status: status of the HTTP response that carried it.
        """
        return cls._made(MeshError.from_object(error, http_status=http_status), error.code)

    @classmethod
    def of(cls, error: MeshError) -> "MeshCallError":
        """From an error of the bus."""
        if isinstance(error, cls):
            return error
        return cls._made(error, error.code)

    @classmethod
    def _made(cls, error: MeshError, code: int) -> "MeshCallError":
        made = cls(
            error.kind,
            error.message,
            data=error.data,
            retry_after_s=error.retry_after_s,
            outcome=error.outcome,
            internal=error.internal,
        )
        made._code = code
        return made

    def __str__(self) -> str:
        return f"{self.message} (code {self.code}, {self.outcome.value})"


def lost(message: str, outcome: Outcome, *, retry_after_s: float | None = None) -> MeshCallError:
    """The connection is gone, or never came to be (then ``not_executed``)."""
    return MeshCallError(ErrorKind.LOST, message, outcome=outcome, retry_after_s=retry_after_s)


def too_late(outcome: Outcome) -> MeshCallError:
    """The caller's time is over."""
    return MeshCallError(ErrorKind.DEADLINE, "no answer within the time given", outcome=outcome)
