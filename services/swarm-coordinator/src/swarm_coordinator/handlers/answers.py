"""How an answer is said: ``tools/call`` results, refusals and times."""

from datetime import UTC, datetime

import msgspec

from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core.refusals import Refusal

__all__ = ["bad", "call_result", "failed_result", "iso", "iso_or_none", "refusal_result", "seconds"]

_encode = msgspec.json.Encoder().encode


TEXT_BYTES_MAX = 4 * 1024 * 1024
"""Beyond this an answer that says everything twice would be more than an edge gives."""


def call_result(structured: bytes) -> bytes:
    """A complete result: the structured content, and the same as text for old clients."""
    text = structured.decode()
    if len(structured) > TEXT_BYTES_MAX:
        text = f"{len(structured)} bytes of JSON: they are in structuredContent"
    return b'%b"content":[{"type":"text","text":%b}],"structuredContent":%b}' % (
        COMPLETE_HEAD,
        _encode(text),
        structured,
    )


def failed_result(structured: bytes) -> bytes:
    """As ``call_result``, as an error of the tool."""
    return b'%b"isError":true,%b' % (COMPLETE_HEAD, call_result(structured)[len(COMPLETE_HEAD) :])


def refusal_result(refusal: Refusal, now_ms: int, **context: str) -> bytes:
    """A refusal as everybody reads it.

    Args:
        refusal: not of code ``params``.
        now_ms: for ``timestamp``.
        context: ids for ``error``, where the refusal itself does not say them (``swarmId`` …).

    Raises:
        MeshError: ``params``, for a refusal that says so.
    """
    if refusal.code == "params":
        raise bad(str(refusal.data.get("where", "")), refusal.message, refusal.reason)
    said: dict[str, object] = msgspec.json.decode(refusal.describe())
    error = said | {key: value for key, value in context.items() if value and key not in said}
    return failed_result(_encode({"error": error, "timestamp": now_ms}))


def bad(where: str, message: str, reason: str = "") -> MeshError:
    """``params`` (-32602) with the place named: a JSON pointer into the arguments."""
    text = f"{where}: {message}" if where and not message.startswith(where) else message
    data = {"where": where} if where else {}
    return MeshError(ErrorKind.PARAMS, text, data=data | {"reason": reason} if reason else data)


def iso(unix_ms: int) -> str:
    """ISO 8601, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(unix_ms: int) -> str | None:
    """0 = not yet."""
    return iso(unix_ms) if unix_ms else None


def seconds(span_ms: float | None) -> float | None:
    """Milliseconds in seconds, to the millisecond; what is unknown stays unknown."""
    return None if span_ms is None else round(span_ms / 1000, 3)
