"""Whether a client can be asked a question: by the capabilities that it declared on the request."""

import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.capabilities import ClientCapabilities
from mcp_proto.types.inputs import InputRequest

__all__ = ["can_be_asked", "missing"]

_CAPABILITIES = msgspec.json.Decoder(ClientCapabilities)


class _Asked(msgspec.Struct):
    """What of a question decides which capability it needs."""

    mode: str | None = None
    tools: msgspec.Raw = ABSENT
    tool_choice: msgspec.Raw = msgspec.field(name="toolChoice", default=ABSENT)


_ASKED = msgspec.json.Decoder(_Asked)


_REQUEST = msgspec.json.Decoder(InputRequest)


def can_be_asked(capabilities: bytes | msgspec.Raw, request: bytes | msgspec.Raw) -> bool:
    """Whether a client that declared these capabilities takes an entry of ``inputRequests``."""
    try:
        return missing(capabilities, _REQUEST.decode(request)) is None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def missing(capabilities: bytes | msgspec.Raw, asked: InputRequest) -> dict[str, object] | None:
    """The capability that a question needs and the client did not declare, as an object.

    Args:
        capabilities: the client's ``ClientCapabilities`` object of this request.
        asked: one entry of ``inputRequests``.

    Returns:
        None = it may be asked; {} = a question of a kind that no client has.
    """
    try:
        own = _CAPABILITIES.decode(capabilities)
    except (msgspec.DecodeError, UnicodeDecodeError):
        own = ClientCapabilities()
    try:
        form = _ASKED.decode(asked.params) if memoryview(asked.params).nbytes else _Asked()
    except (msgspec.DecodeError, UnicodeDecodeError, MeshError):
        return {}
    match asked.method:
        case "roots/list":
            return None if own.roots is not None else {"roots": {}}
        case "sampling/createMessage":
            return _missing_sampling(own, form)
        case "elicitation/create":
            return _missing_elicitation(own, form)
        case _:
            return {}


def _missing_sampling(own: ClientCapabilities, form: _Asked) -> dict[str, object] | None:
    with_tools = bool(memoryview(form.tools).nbytes or memoryview(form.tool_choice).nbytes)
    needed: dict[str, object] = {"sampling": {"tools": {}} if with_tools else {}}
    if own.sampling is None:
        return needed
    has_tools = bool(memoryview(own.sampling.tools).nbytes)
    return needed if with_tools and not has_tools else None


def _missing_elicitation(own: ClientCapabilities, form: _Asked) -> dict[str, object] | None:
    mode = form.mode or "form"
    if mode not in {"form", "url"}:
        return {}
    needed: dict[str, object] = {"elicitation": {mode: {}}}
    if own.elicitation is None:
        return needed
    takes = own.elicitation.takes_form if mode == "form" else own.elicitation.takes_url
    return None if takes else needed
