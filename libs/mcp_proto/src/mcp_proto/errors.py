"""The one error of the mesh: what crosses the bus and what each edge renders.

``MeshError`` is raised anywhere, travels as a JSON-RPC error body with the ADR-32 header pair,
and is rebuilt on the far side. Only edges render it for a client. Every error says in
``data.outcome`` whether the call may have run, because agents live on retries.

Codes stay outside -32768..-32000 unless JSON-RPC or MCP defines them (docs/architecture.md,
section "One error"; MCP 2026-07-28, "Error codes").
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeGuard

import msgspec

__all__ = ["ErrorKind", "ErrorObject", "MeshError", "Outcome"]


class Outcome(StrEnum):
    """Whether the call that failed may have had an effect."""

    NOT_EXECUTED = "not_executed"
    """Proven not to have run: safe to retry. The mesh itself retries only these."""
    UNKNOWN = "unknown"
    """May have run."""
    EXECUTED = "executed"
    """Has run; the answer could not be delivered as asked."""


class ErrorKind(StrEnum):
    """What went wrong, independent of transport and era."""

    PARSE = "parse"
    """The bytes are not JSON that is accepted here."""
    REQUEST = "request"
    """JSON, but not a request of this protocol, or not allowed in this state."""
    METHOD = "method"
    """No such method."""
    PARAMS = "params"
    """The parameters do not fit the method."""
    HEADER_MISMATCH = "header_mismatch"
    """Header and body of a request contradict each other."""
    CAPABILITY = "capability"
    """Needs a capability that the client did not declare."""
    VERSION = "version"
    """A protocol revision that is not served."""
    UNAUTHENTICATED = "unauthenticated"
    """No credential, or one that is not valid."""
    DENIED = "denied"
    """Known, and not allowed to do this."""
    NOT_FOUND = "not_found"
    """The thing named does not exist for this caller."""
    NO_RUNNER = "no_runner"
    """Nobody serves it now."""
    TOO_LARGE = "too_large"
    """Exceeds a limit of size."""
    DEADLINE = "deadline"
    """The time of the call is over."""
    OVERLOADED = "overloaded"
    """A limit of number or rate is reached."""
    UPSTREAM = "upstream"
    """The MCP server behind the tool failed."""
    LOST = "lost"
    """Whoever ran the call is gone."""
    BUS = "bus"
    """No connection to the broker."""
    INTERNAL = "internal"
    """A defect, or an error that is nobody else's."""


class _Shape(msgspec.Struct, frozen=True):
    code: int
    http: int
    outcome: Outcome


_SHAPES: dict[ErrorKind, _Shape] = {
    ErrorKind.PARSE: _Shape(-32700, 400, Outcome.NOT_EXECUTED),
    ErrorKind.REQUEST: _Shape(-32600, 400, Outcome.NOT_EXECUTED),
    ErrorKind.METHOD: _Shape(-32601, 404, Outcome.NOT_EXECUTED),
    ErrorKind.PARAMS: _Shape(-32602, 400, Outcome.NOT_EXECUTED),
    ErrorKind.HEADER_MISMATCH: _Shape(-32020, 400, Outcome.NOT_EXECUTED),
    ErrorKind.CAPABILITY: _Shape(-32021, 400, Outcome.NOT_EXECUTED),
    ErrorKind.VERSION: _Shape(-32022, 400, Outcome.NOT_EXECUTED),
    ErrorKind.UNAUTHENTICATED: _Shape(-31001, 401, Outcome.NOT_EXECUTED),
    ErrorKind.DENIED: _Shape(-31003, 403, Outcome.NOT_EXECUTED),
    ErrorKind.NOT_FOUND: _Shape(-32602, 404, Outcome.NOT_EXECUTED),
    ErrorKind.LOST: _Shape(-31010, 502, Outcome.UNKNOWN),
    ErrorKind.NO_RUNNER: _Shape(-31011, 503, Outcome.NOT_EXECUTED),
    ErrorKind.TOO_LARGE: _Shape(-31012, 413, Outcome.NOT_EXECUTED),
    ErrorKind.DEADLINE: _Shape(-31014, 504, Outcome.UNKNOWN),
    ErrorKind.OVERLOADED: _Shape(-31016, 429, Outcome.NOT_EXECUTED),
    ErrorKind.UPSTREAM: _Shape(-31017, 502, Outcome.UNKNOWN),
    ErrorKind.BUS: _Shape(-31018, 503, Outcome.NOT_EXECUTED),
    ErrorKind.INTERNAL: _Shape(-32603, 500, Outcome.UNKNOWN),
}

_BY_CODE: dict[int, ErrorKind] = {
    shape.code: kind for kind, shape in _SHAPES.items() if kind is not ErrorKind.NOT_FOUND
}


_OUTCOMES: dict[str, Outcome] = {outcome.value: outcome for outcome in Outcome}
_WAIT_MAX_MS = 24 * 3600 * 1000


def _is_wait_ms(value: object) -> TypeGuard[int | float]:
    """Another process wrote it: a bool, a negative or an absurd number is no waiting time."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= _WAIT_MAX_MS
    )


class ErrorObject(msgspec.Struct, frozen=True):
    """The ``error`` member of a JSON-RPC response (JSON-RPC 2.0, section 5.1)."""

    code: int
    message: str
    data: Any = msgspec.UNSET


class MeshError(Exception):
    """A failure with everything a caller needs to decide what to do next.

    Args:
        kind: what went wrong; fixes the JSON-RPC code and the HTTP status.
        message: public text; never secrets, paths or stack traces.
        data: public members merged into the JSON-RPC ``data`` beside ``outcome``.
        retry_after_s: when a retry can help, how long to wait, in seconds.
        outcome: overrides the usual outcome of the kind.
        internal: context for logs only; never leaves the process.

    Attributes:
        request_id: JSON-RPC id of the message that could not be decoded, where it was readable.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        data: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
        outcome: Outcome | None = None,
        internal: str | None = None,
    ) -> None:
        super().__init__(message)
        shape = _SHAPES[kind]
        self.kind = kind
        self.message = message
        self.data: dict[str, Any] = dict(data) if data else {}
        self.retry_after_s = retry_after_s
        self.outcome = outcome if outcome is not None else shape.outcome
        self.internal = internal
        self.request_id: str | int | None = None

    @property
    def code(self) -> int:
        """JSON-RPC error code of the kind."""
        return _SHAPES[self.kind].code

    @property
    def http_status(self) -> int:
        """HTTP status for ``POST /tools/<tool>`` and for refusals by the transport itself."""
        return _SHAPES[self.kind].http

    def to_object(self) -> ErrorObject:
        """The JSON-RPC error object, with ``outcome`` and ``retryAfterMs`` in ``data``."""
        data: dict[str, Any] = {**self.data, "outcome": self.outcome.value}
        if self.retry_after_s is not None:
            data["retryAfterMs"] = max(0, round(self.retry_after_s * 1000))
        return ErrorObject(code=self.code, message=self.message, data=data)

    @classmethod
    def from_object(cls, error: ErrorObject, *, http_status: int | None = None) -> "MeshError":
        """Rebuild an error that came over the bus.

        Args:
            error: the JSON-RPC error object.
            http_status: value of ``Nats-Service-Error-Code``, which tells ``not_found`` from
                ``params`` (both are -32602).

        Returns:
            An error of the matching kind; a code that is not ours becomes ``internal`` and keeps
            its public message.
        """
        kind = _BY_CODE.get(error.code, ErrorKind.INTERNAL)
        if kind is ErrorKind.PARAMS and http_status == _SHAPES[ErrorKind.NOT_FOUND].http:
            kind = ErrorKind.NOT_FOUND
        data: dict[str, Any] = dict(error.data) if isinstance(error.data, dict) else {}
        retry_ms = data.pop("retryAfterMs", None)
        named = data.pop("outcome", None)
        return cls(
            kind,
            error.message,
            data=data,
            retry_after_s=retry_ms / 1000 if _is_wait_ms(retry_ms) else None,
            outcome=_OUTCOMES.get(named) if isinstance(named, str) else None,
        )

    def __repr__(self) -> str:
        # The internal context stays out: a repr ends up in messages that leave the process.
        return f"MeshError({self.kind.value}, {self.message!r}, outcome={self.outcome.value})"
