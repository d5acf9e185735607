"""What a server may ask of its client in mid-call: declared or not, and how it is answered.

A server of a legacy era asks by requests of its own; on the bus a call that needs input answers
``input_required`` and is repeated with the answers (MCP 2026-07-28, "Multi-round-trip requests").
"""

from collections.abc import Mapping

import msgspec

from mcp_proto.codec import decode_as, encode, pick, remove, splice
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.capabilities import ClientCapabilities
from mcp_proto.types.elicitation import ElicitResult
from mcp_proto.types.meta import CLIENT_CAPABILITIES
from mcp_proto.types.roots import ListRootsResult
from mcp_proto.types.sampling import CreateMessageResult

__all__ = [
    "ASKABLE",
    "CANCELLED",
    "ELICIT",
    "INPUT_KEY",
    "KEY_CHARS_MAX",
    "RESUMABLE",
    "ROOTS",
    "SAMPLE",
    "capabilities_of",
    "check_answer",
    "given_up",
    "input_required",
    "links_required",
    "may_declare_input",
    "missing_capability",
    "question",
    "refusal",
    "undeclared",
    "wanted_key",
]

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
ROOTS = "roots/list"
ASKABLE = frozenset((ELICIT, SAMPLE, ROOTS))
"""Requests of a server that its client's user, model or configuration answers."""

RESUMABLE = frozenset(("tools/call", "prompts/get", "resources/read"))
"""Requests that may answer ``input_required``."""

CANCELLED = b'{"action":"cancel"}'
"""Answer to an elicitation that nobody answers any more."""

_METHOD = -32601
_PARAMS = -32602
_INTERNAL = -32603
_LINKS_FIRST = -32042
_LINKS_MAX = 16
_LINK = "link-"
_LACKS = "the client does not support "
_REQUIRED = "requiredCapabilities"
_NAMES = {ELICIT: "elicitation", SAMPLE: "sampling", ROOTS: "roots"}
_MARKS = tuple(f'"{name}"'.encode() for name in _NAMES.values())


def may_declare_input(params: msgspec.Raw) -> bool:
    """Quick test whether a caller's params can declare any capability to be asked.

    May say yes for a call that declares none; never no for one that does.
    """
    data = bytes(params)
    return any(mark in data for mark in _MARKS) or b"\\u" in data


class _Meta(msgspec.Struct, frozen=True):
    capabilities: ClientCapabilities = msgspec.field(
        default=ClientCapabilities(), name=CLIENT_CAPABILITIES
    )


class _Params(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(default=_Meta(), name="_meta")


def capabilities_of(params: msgspec.Raw) -> ClientCapabilities:
    """What the caller declared on this call; nothing where that cannot be read."""
    try:
        return decode_as(params, _Params).meta.capabilities
    except MeshError:
        return ClientCapabilities()


class _Action(msgspec.Struct, frozen=True):
    action: str = ""


class _Answers(msgspec.Struct, frozen=True, rename="camel"):
    input_responses: dict[str, _Action] = {}


def links_required(error: ErrorObject, method: str, params: msgspec.Raw) -> bytes | ErrorObject:
    """Error -32042 of a 2025-11-25 server, "finish these url elicitations first", as a result.

    On the bus it is a call that asks for them; it keeps no state, so the repeated call simply
    begins anew. A caller who did not declare that mode gets an error that says so. Any other
    error is given back as it is, and this one too to a caller who has just declined.

    Args:
        error: what the server's connection made of its answer.
        method: of the caller's request.
        params: of the caller's request.
    """
    if not isinstance(error.data, dict) or error.data.get("upstreamCode") != _LINKS_FIRST:
        return error
    data: dict[str, object] = error.data
    try:
        links = msgspec.convert(data.get("elicitations"), list[dict[str, object]])
        answers = decode_as(params, _Answers).input_responses
    except (msgspec.ValidationError, MeshError):
        return error
    declined = any(one.action != "accept" for key, one in answers.items() if key.startswith(_LINK))
    if not links or declined or method not in RESUMABLE:
        return error
    declared = capabilities_of(params).elicitation
    if declared is None or not declared.takes_url:
        required = {"elicitation": {"url": {}}}
        return MeshError(
            ErrorKind.CAPABILITY,
            error.message,
            data={**data, _REQUIRED: required},
            outcome=Outcome.UNKNOWN,
        ).to_object()
    requests = {
        f"{_LINK}{at + 1}": {"method": ELICIT, "params": {"mode": "url", **link}}
        for at, link in enumerate(links[:_LINKS_MAX])
    }
    return b'{"resultType":"input_required","inputRequests":' + encode(requests) + b"}"


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    mode: str | None = None
    tools: msgspec.Raw = ABSENT
    tool_choice: msgspec.Raw = ABSENT


def undeclared(method: str) -> ErrorObject:
    """Error for a server whose client does not serve ``method`` (client features, all revisions).

    -32601: the code MCP names for a client without roots, and JSON-RPC's for the others.
    """
    name = _NAMES.get(method)
    if name is None:
        return ErrorObject(_METHOD, f"the client does not know {method[:64]}")
    return _lacks(_METHOD, name, {name: {}})


def _lacks(code: int, what: str, required: dict[str, dict[str, object]]) -> ErrorObject:
    return ErrorObject(code, _LACKS + what, {_REQUIRED: required})


def missing_capability(error: ErrorObject) -> MeshError | None:
    """The error of a call whose server only passes on that its client cannot be asked.

    Servers let the refusal of their question end the call with the same error; a modern caller
    gets the error that its own revision has for it. None = it is another error.
    """
    if error.code not in {_METHOD, _PARAMS} or not error.message.startswith(_LACKS):
        return None
    if not isinstance(error.data, dict) or not isinstance(error.data.get(_REQUIRED), dict):
        return None
    return MeshError(
        ErrorKind.CAPABILITY,
        error.message,
        data={_REQUIRED: error.data[_REQUIRED]},
        outcome=Outcome.UNKNOWN,
    )


def refusal(declared: ClientCapabilities, method: str, params: msgspec.Raw) -> ErrorObject | None:
    """Why this client may not be asked this; None when it may.

    A kind that is not declared is -32601, a mode or feature that is not declared -32602
    (MCP 2025-11-25, elicitation and sampling).
    """
    kinds = {ELICIT: declared.elicitation, SAMPLE: declared.sampling, ROOTS: declared.roots}
    if kinds.get(method) is None:
        return undeclared(method)
    try:
        asked = decode_as(params, _Asked) if memoryview(params).nbytes else _Asked()
    except MeshError as error:
        return ErrorObject(_PARAMS, f"malformed params of {method}: {error.message}")
    if method == ELICIT and declared.elicitation is not None:
        mode = asked.mode or "form"
        offered = {
            "form": declared.elicitation.takes_form,
            "url": declared.elicitation.takes_url,
        }
        if not offered.get(mode, False):
            what = f"elicitation mode {mode[:32]}"
            return _lacks(_PARAMS, what, {"elicitation": {mode[:32]: {}}})
    if method == SAMPLE and declared.sampling is not None:
        uses_tools = _present(asked.tools) or _present(asked.tool_choice)
        if uses_tools and not _present(declared.sampling.tools):
            return _lacks(_PARAMS, "tools in sampling", {"sampling": {"tools": {}}})
    return None


def _present(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in {b"", b"null"}


INPUT_KEY = "mesh/inputKey"
"""In ``_meta`` of a server's question: the key it should have in ``inputRequests``."""
KEY_CHARS_MAX = 64
_KEY_MARK = b"inputKey"


def wanted_key(params: msgspec.Raw) -> str:
    """The key a server wishes for its question; "" = none, or none that can be used.

    The requests of old servers have no names; clients of the new era may go by names.
    """
    if _KEY_MARK not in bytes(params):
        return ""
    try:
        meta = pick(params, "_meta").get("_meta")
        wish = pick(meta, INPUT_KEY).get(INPUT_KEY) if meta is not None else None
        key = decode_as(wish, str) if wish is not None else ""
    except MeshError:
        return ""
    return key if len(key) <= KEY_CHARS_MAX else ""


def question(method: str, params: msgspec.Raw) -> bytes:
    """One entry of ``inputRequests``.

    The server's params keep their bytes but for members that concern only the connection they
    came on: its own progress token, the key it wishes for, and the wish for a core task, which
    nobody declared.

    Raises:
        MeshError: ``params`` when ``params`` is no object.
    """
    head = b'{"method":' + encode(method)
    if not memoryview(params).nbytes:
        return head + b"}"
    clean = remove(params, "task")
    if b"progressToken" in clean or _KEY_MARK in clean or b"\\u" in clean:
        meta = pick(clean, "_meta").get("_meta")
        if meta is not None:
            clean = splice(clean, {"_meta": remove(meta, "progressToken", INPUT_KEY)})
    return head + b',"params":' + clean + b"}"


def input_required(questions: Mapping[str, bytes], park_id: str, instance: str) -> bytes:
    """Result of a call that waits for input in this runner.

    Args:
        questions: entries of ``inputRequests`` by key.
        park_id: goes back as ``requestState``.
        instance: the runner that must get the repeated call.
    """
    entries = b",".join(encode(key) + b":" + entry for key, entry in questions.items())
    parked = encode({"instance": instance})
    return (
        b'{"resultType":"input_required","inputRequests":{' + entries + b'},"requestState":'
        + encode(park_id) + b',"_meta":{"mesh/parked":' + parked + b"}}"
    )  # fmt: skip


class _Refused(msgspec.Struct, frozen=True):
    error: ErrorObject | None = msgspec.field(default=None, name="mesh/error")


class _Answer(msgspec.Struct, frozen=True):
    meta: _Refused = msgspec.field(default=_Refused(), name="_meta")


_RESULTS: dict[str, type[msgspec.Struct]] = {
    ELICIT: ElicitResult,
    SAMPLE: CreateMessageResult,
    ROOTS: ListRootsResult,
}
_ACTIONS = ("accept", "decline", "cancel")


def check_answer(key: str, method: str, answer: msgspec.Raw) -> bytes | ErrorObject:
    """A client's answer as the server gets it.

    A legacy client may answer with an error, for which ``inputResponses`` has no form: its edge
    puts ``{"code", "message"}`` into ``_meta["mesh/error"]`` of an otherwise empty answer.

    Raises:
        MeshError: ``params`` when it is no valid result of ``method``.
    """
    data = bytes(answer)
    try:
        if b"mesh/error" in data:
            error = decode_as(answer, _Answer).meta.error
            if error is not None:
                return error
        result = decode_as(answer, _RESULTS[method])
        if isinstance(result, ElicitResult) and result.action not in _ACTIONS:
            raise MeshError(ErrorKind.PARAMS, f"action must be one of {', '.join(_ACTIONS)}")
    except MeshError as error:
        raise MeshError(
            ErrorKind.PARAMS, f"inputResponses.{key[:64]} is no result of {method}: {error.message}"
        ) from error
    return data


def given_up(method: str, why: str) -> bytes | ErrorObject:
    """What a server gets for a question that is not answered any more."""
    return CANCELLED if method == ELICIT else ErrorObject(_INTERNAL, why)
