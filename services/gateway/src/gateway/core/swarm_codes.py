"""Failures of swarms in the codes of the earlier system, for its TCP clients alone.

Everybody reads a refusal in the result of the tool (``isError``, ``structuredContent.error``);
peers of 2024-11-05 to 2025-11-25 on TCP get a JSON-RPC error with the codes that they know
(compatibility contract, section 2). A peer of 2026-07-28 never sees a code of that band.
"""

import msgspec

from gateway.core.answers import AnsweredError
from gateway.core.requests import text_member
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.names import SWARM_SERVER, SWARM_TOOLS

__all__ = ["CODES", "SERVER_CODE", "check_refused", "of_server"]

CODES = {"agent": -32001, "swarm": -32002, "resource": -32003}
"""Word in ``structuredContent.error.code`` → old code."""
SERVER_CODE = -32000
"""The coordinator itself failed."""

_REFUSAL_BYTES_MAX = 64 * 1024
"""A refusal is short; results above are not searched for one."""
_TOOLS_CALL = "tools/call"
_ALIAS = f"{SWARM_SERVER}:"
_MARK = b'"isError":true'


class _Structured(msgspec.Struct, frozen=True):
    error: dict[str, object] = {}


class _Result(msgspec.Struct, frozen=True, rename="camel"):
    structured_content: _Structured = _Structured()


_RESULT = msgspec.json.Decoder(_Result)


def check_refused(method: str, params: bytes | msgspec.Raw, result: bytes) -> None:
    """Let pass what is no refusal of a swarm tool.

    Args:
        method: of the request.
        params: of the request, as the client sent them.
        result: the answer, of any era.

    Raises:
        AnsweredError: with the old code, and the members of the refusal as ``data``.
    """
    if method != _TOOLS_CALL or len(result) > _REFUSAL_BYTES_MAX or _MARK not in result:
        return
    if not _of_swarm(params):
        return
    try:
        said = dict(_RESULT.decode(result).structured_content.error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    code = CODES.get(str(said.pop("code", "")))
    if code is not None:
        message = str(said.pop("message", "")) or "refused"
        raise AnsweredError(ErrorObject(code, message, said))


def of_server(error: MeshError, method: str, params: bytes | msgspec.Raw) -> MeshError:
    """An error of a call, with the old code where the coordinator itself failed."""
    internal = error.kind is ErrorKind.INTERNAL and not isinstance(error, AnsweredError)
    if method != _TOOLS_CALL or not (internal or _says_internal(error)) or not _of_swarm(params):
        return error
    plain = error.to_object()
    return AnsweredError(ErrorObject(SERVER_CODE, plain.message, plain.data))


def _says_internal(error: MeshError) -> bool:
    return isinstance(error, AnsweredError) and error.answer.code == _INTERNAL_CODE


_INTERNAL_CODE = MeshError(ErrorKind.INTERNAL, "").code


def _of_swarm(params: bytes | msgspec.Raw) -> bool:
    try:
        name = text_member(params, "name")
    except MeshError:
        return False
    return name in SWARM_TOOLS or name.startswith(_ALIAS)
