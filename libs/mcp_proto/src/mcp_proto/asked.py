"""What a message on a server's subject asks for, and whether its three copies of that agree.

Subject, headers and body repeat the routing facts (docs/architecture.md, "Subjects"). The subject
is what permissions were granted for, so it decides; a header or body that says otherwise is
refused. Headers and most of the body may be absent: a person with any NATS client can call.
"""

import msgspec

from mcp_proto.codec import decode_as, decode_message, pick, splice
from mcp_proto.envelope import MODERN, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request, RequestId
from mcp_proto.methods import routing_member
from mcp_proto.subjects import Kind, Subject

__all__ = ["TOOLS_CALL", "Asked", "read_directed", "read_request"]

TOOLS_CALL = "tools/call"
_NO_ID = 0
"""Id of the answer to a body that is bare params."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request whose copies agree.

    Attributes:
        id: JSON-RPC id for the answer.
        method: MCP method.
        name: tool, prompt or URI; "" when the method has none.
        params: JSON object bytes, complete with the name.
        arguments: of ``tools/call``, JSON bytes; empty when absent.
    """

    id: RequestId
    method: str
    name: str
    params: msgspec.Raw
    arguments: msgspec.Raw


_NOTHING = msgspec.Raw(b"")


def read_request(
    subject: Subject, envelope: RequestEnvelope, protocol: str | None, payload: bytes
) -> Asked:
    """Read a request.

    Args:
        subject: parsed subject of a ``call`` or ``rpc`` message.
        envelope: parsed headers.
        protocol: value of ``MCP-Protocol-Version``; None when absent.
        payload: a JSON-RPC request, or only its params, or nothing.

    Raises:
        MeshError: ``header_mismatch``, ``version``, ``params``, and what ``decode_message`` says.
    """
    method = TOOLS_CALL if subject.kind is Kind.CALL else subject.method
    if envelope.method and envelope.method != method:
        raise _mismatch("Mcp-Method", "the subject")
    _check_protocol(protocol)
    request_id, params = _body(payload, method)
    member = routing_member(method)
    if member is None:
        return Asked(request_id, method, "", params, _NOTHING)
    found = pick(params, member, "arguments")
    said = decode_as(found[member], str) if member in found else ""
    name = subject.names[1] if subject.kind is Kind.CALL else said or envelope.name
    if member not in found:
        params = msgspec.Raw(splice(params, {member: msgspec.json.encode(name)}))
    elif said != name:
        raise _mismatch(f"params.{member}", "the subject")
    if envelope.name and envelope.name != name:
        raise _mismatch("Mcp-Name", f"params.{member}")
    return Asked(request_id, method, name, params, found.get("arguments", _NOTHING))


def read_directed(envelope: RequestEnvelope, protocol: str | None, payload: bytes) -> Asked:
    """Read a request on a subject that names a process instead of a method.

    Args:
        envelope: parsed headers.
        protocol: value of ``MCP-Protocol-Version``; None when absent.
        payload: a JSON-RPC request.

    Raises:
        MeshError: as ``read_request``.
    """
    _check_protocol(protocol)
    message = decode_message(payload)
    if not isinstance(message, Request):
        raise MeshError(ErrorKind.REQUEST, "expected a request")
    if envelope.method and envelope.method != message.method:
        raise _mismatch("Mcp-Method", "the body's method")
    member = routing_member(message.method)
    name = ""
    if member is not None:
        found = pick(message.params, member)
        name = decode_as(found[member], str) if member in found else ""
        if envelope.name and envelope.name != name:
            raise _mismatch("Mcp-Name", f"params.{member}")
    return Asked(message.id, message.method, name, message.params, _NOTHING)


def _check_protocol(protocol: str | None) -> None:
    if protocol is not None and protocol != MODERN:
        raise MeshError(
            ErrorKind.VERSION,
            "unsupported protocol version on the bus",
            data={"supported": [MODERN], "requested": protocol[:32]},
        )


def _body(payload: bytes, method: str) -> tuple[RequestId, msgspec.Raw]:
    if not payload:
        return _NO_ID, _NOTHING
    try:
        message = decode_message(payload)
    except MeshError as error:
        if error.kind is ErrorKind.REQUEST and _is_bare(payload):
            return _NO_ID, msgspec.Raw(payload)
        raise
    if not isinstance(message, Request):
        raise MeshError(ErrorKind.REQUEST, "expected a request")
    if message.method != method:
        raise _mismatch("the body's method", "the subject")
    return message.id, message.params


def _is_bare(payload: bytes) -> bool:
    """Whether a body that is no JSON-RPC message can be meant as params."""
    try:
        return not pick(payload, "jsonrpc", "method", "result", "error")
    except MeshError:
        return False


def _mismatch(one: str, other: str) -> MeshError:
    return MeshError(ErrorKind.HEADER_MISMATCH, f"{one} does not match {other}")
