"""Answers of a legacy upstream as the bus carries them: complete, with cache hints, clean codes."""

import msgspec

from mcp_proto.codec import splice
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.methods import CACHEABLE

__all__ = ["from_legacy_error", "from_legacy_result"]


class _Hints(msgspec.Struct, frozen=True, rename="camel", gc=False):
    ttl_ms: msgspec.Raw = ABSENT
    cache_scope: msgspec.Raw = ABSENT


_hints = msgspec.json.Decoder(_Hints)
_RESOURCE_NOT_FOUND = -32002
_KEPT: dict[int, ErrorKind] = {
    -32600: ErrorKind.REQUEST,
    -32601: ErrorKind.METHOD,
    -32602: ErrorKind.PARAMS,
    -32603: ErrorKind.INTERNAL,
}


def from_legacy_result(method: str, result: bytes | msgspec.Raw, *, ttl_ms: int = 0) -> bytes:
    """Make a legacy result modern; ``resultType`` comes first, all else keeps its bytes.

    Args:
        method: method of the request that it answers.
        result: the upstream's result.
        ttl_ms: freshness promised for the six cacheable methods; their scope is private,
            because an old upstream says nothing about who else may see its answer.

    Raises:
        MeshError: ``upstream`` with outcome ``executed`` when the result is no object.
    """
    data = bytes(result).strip()
    try:
        seen = _hints.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MeshError(
            ErrorKind.UPSTREAM, "the result is not a JSON object", outcome=Outcome.EXECUTED
        ) from None
    hints: dict[str, bytes] = {}
    if method in CACHEABLE:
        if not memoryview(seen.ttl_ms).nbytes:
            hints["ttlMs"] = b"%d" % ttl_ms
        if not memoryview(seen.cache_scope).nbytes:
            hints["cacheScope"] = b'"private"'
    elif b'"resultType"' not in data and b"\\u" not in data:
        rest = data[1:].lstrip()
        return COMPLETE_HEAD[:-1] + b"}" if rest == b"}" else COMPLETE_HEAD + rest
    return splice(data, {"resultType": b'"complete"', **hints})


def from_legacy_error(method: str, error: ErrorObject) -> MeshError:
    """Make a legacy upstream's error one that may cross the bus.

    JSON-RPC's own codes keep their kind and the upstream's text and data; "resource not found"
    becomes ``not_found``; every other code, all of the band -32000..-32099 among them, becomes
    ``upstream`` and is named in ``data.upstreamCode``. Nothing here proves that the call did not
    run, so the outcome is ``unknown``, except where the upstream did not know what was asked.
    """
    data: dict[str, object] = {}
    if isinstance(error.data, dict):
        data = {str(key): value for key, value in error.data.items() if key not in _OWN_MEMBERS}
    elif error.data is not msgspec.UNSET and error.data is not None:
        data = {"upstreamData": error.data}
    if error.code == _RESOURCE_NOT_FOUND and method == "resources/read":
        return MeshError(ErrorKind.NOT_FOUND, error.message, data=data)
    kind = _KEPT.get(error.code)
    if kind is None:
        data["upstreamCode"] = error.code
        return MeshError(ErrorKind.UPSTREAM, error.message, data=data)
    outcome = Outcome.NOT_EXECUTED if kind is ErrorKind.METHOD else Outcome.UNKNOWN
    return MeshError(kind, error.message, data=data, outcome=outcome)


_OWN_MEMBERS = ("outcome", "retryAfterMs")  # the mesh's word, never an upstream's
