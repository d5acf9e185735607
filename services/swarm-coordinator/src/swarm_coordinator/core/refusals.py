"""Why something cannot be decided as asked; handlers turn it into the answer of a tool."""

from typing import Literal

import msgspec

__all__ = ["Code", "Refusal"]

Code = Literal["agent", "swarm", "resource", "params"]


class Refusal(Exception):  # noqa: N818 - an answer, not a defect
    """Nothing was decided and no event exists: outcome ``not_executed``.

    Attributes:
        code: failure word of ``structuredContent.error``; ``params`` = bad arguments (-32602).
        reason: word, e.g. ``limit``, ``not_found``, ``topology_violation``, ``no_runtime``.
        message: public text.
        data: JSON values beside them, e.g. ``limit``, ``inFlight``, ``retryAfterMs``,
            ``missingCapabilities``, ``where``.
    """

    def __init__(self, code: Code, reason: str, message: str, **data: object) -> None:
        """As the class says."""
        super().__init__(message)
        self.code: Code = code
        self.reason = reason
        self.message = message
        self.data: dict[str, object] = data

    @property
    def retryable(self) -> bool:
        """Whether waiting helps."""
        return "retryAfterMs" in self.data

    def describe(self) -> bytes:
        """``{code, reason, message, retryable, outcome, …}`` as JSON."""
        return msgspec.json.encode(
            {
                "code": self.code,
                "reason": self.reason,
                "message": self.message,
                "retryable": self.retryable,
                "outcome": "not_executed",
                **self.data,
            }
        )
