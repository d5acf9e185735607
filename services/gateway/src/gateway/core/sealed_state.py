"""What a call that waits for input leaves with its client, and whether a repeat of it is genuine.

The client carries the state sealed; it names who called what with which arguments, so a state works
for the same call of the same caller only. An upstream's own state cannot do that: what an upstream
sees as its client is the mesh (MCP 2026-07-28, "Multi-round-trip requests").
"""

import hashlib

import msgspec

from mcp_proto.canonical import canonical
from mcp_proto.codec import decode_as
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.ids import is_instance_id
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.members import pick, remove, splice
from mcp_proto.types.inputs import InputRequest

__all__ = [
    "ABANDON",
    "INPUTS_MAX",
    "PARKED",
    "SERVER",
    "STATE_TTL_MS",
    "Asked",
    "SealedState",
    "asked_of",
    "carries_input",
    "check",
    "digest",
    "may_ask",
    "questions_of",
]

STATE_TTL_MS = 600_000
"""Life of a sealed state: what the official SDK gives its own."""

INPUTS_MAX = 32
"""Questions of one result; a person answers a handful."""

PARKED = "mesh/parked"
"""In ``_meta`` of a runner's ``input_required``: which runner holds the call."""
SERVER = "mesh/server"
"""In ``_meta`` of what a client is asked: which server asks, as its lists name it."""
ABANDON = "mesh/abandon"
"""In ``_meta`` of a repeat: no answers will come, whoever waits for them may stop."""

_HEAD_BYTES = len(COMPLETE_HEAD)
_ASKS = b"input_required"
_DONE = b'"complete"'
_STATE = "requestState"
_RESPONSES = "inputResponses"
_LARGE_BYTES = 64 * 1024
"""Above it one pass of a parser is faster than the search for one word."""
_NOT_DIGESTED = frozenset(("_meta", _STATE, _RESPONSES, "name", "uri"))
"""The name is compared by itself, as the server knows it: it has several spellings here."""


class SealedState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The content of a sealed ``requestState``.

    Attributes:
        tenant: of the caller.
        principal: the caller.
        server: that asks.
        method: of the call.
        target: the server's own name (or URI) of what is called.
        digest: of the other params.
        exp: Unix ms, broker time.
        instance: runner that holds the call; "" = nobody does, the server keeps no call open.
        inner: the server's own state; None = it gave none.
    """

    tenant: str
    principal: str
    server: str
    method: str
    target: str
    digest: str
    exp: int
    instance: str = ""
    inner: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """An ``input_required`` result, taken apart.

    Attributes:
        rest: the result without the server's state and without what the mesh put into ``_meta``.
        inputs: question by key.
        inner: the server's own state, None = it gave none.
        instance: runner that holds the call; "" = none.
    """

    rest: bytes
    inputs: dict[str, InputRequest]
    inner: str | None
    instance: str


class _Parked(msgspec.Struct, frozen=True):
    instance: str


class _Repeated(msgspec.Struct, frozen=True, gc=False):
    state: msgspec.Raw = msgspec.field(name=_STATE, default=ABSENT)
    responses: msgspec.Raw = msgspec.field(name=_RESPONSES, default=ABSENT)


_REPEATED = msgspec.json.Decoder(_Repeated)


def may_ask(result: bytes | msgspec.Raw) -> bool:
    """Quick test for ``resultType: input_required``; never False for one."""
    # A large one comes as it was cut out of its answer: its head is read without a copy of it.
    head = result if type(result) is bytes else bytes(memoryview(result)[:_HEAD_BYTES])
    if head.startswith(COMPLETE_HEAD):
        return False
    data = bytes(result)
    if len(data) > _LARGE_BYTES:
        try:
            return bytes(pick(data, "resultType").get("resultType", _DONE)) != _DONE
        except MeshError:
            return True
    return _ASKS in data or b"\\u" in data


def carries_input(params: bytes | msgspec.Raw) -> bool:
    """Whether params repeat a call with answers or a state, in whatever spelling of the keys.

    On the path of every call: a parser that skips all values is faster than the search for words.

    Raises:
        MeshError: ``parse``: they hold an escape that no parser reads (a lone surrogate), behind
            which a state could pass by the seal.
    """
    try:
        found = _REPEATED.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Absent, or no object: nothing that carries anything. Otherwise ``pick`` says why not.
        data = bytes(params)
        return b"\\" in data and bool(pick(data, _STATE, _RESPONSES))
    return found.state is not ABSENT or found.responses is not ABSENT


def asked_of(result: bytes | msgspec.Raw, server: str) -> Asked | None:
    """Take a result apart if it asks for input.

    Args:
        result: of a server, before the gateway's own members are put on.
        server: that gave it.

    Returns:
        None = it asks for nothing.

    Raises:
        MeshError: ``upstream``, executed, when it asks in a form that cannot be relayed.
    """
    try:
        found = pick(result, "resultType", "inputRequests", _STATE, "_meta")
        kind = found.get("resultType")
        if kind is None or decode_as(kind, str) != _ASKS.decode():
            return None
        raw_state = found.get(_STATE)
        inner = None if raw_state is None else decode_as(raw_state, str)
        inputs = questions_of(found.get("inputRequests", ABSENT))
        if inner is None and not inputs:
            raise MeshError(ErrorKind.PARAMS, "neither inputRequests nor requestState")
        if len(inputs) > INPUTS_MAX:
            raise MeshError(ErrorKind.PARAMS, f"more than {INPUTS_MAX} questions")
        rest = remove(result, _STATE)
        instance = ""
        meta = found.get("_meta")
        parked = None if meta is None else pick(meta, PARKED).get(PARKED)
        if meta is not None and parked is not None:
            instance = decode_as(parked, _Parked).instance
            if not is_instance_id(instance) or inner is None:
                raise MeshError(ErrorKind.PARAMS, f"{PARKED} is malformed")
            rest = splice(rest, {"_meta": remove(meta, PARKED)})
    except MeshError as error:
        raise MeshError(
            ErrorKind.UPSTREAM,
            f"server {server} asks for input in a form that cannot be relayed: {error.message}",
            data={"server": server},
            outcome=Outcome.EXECUTED,
        ) from None
    return Asked(rest, inputs, inner, instance)


def questions_of(raw: msgspec.Raw) -> dict[str, InputRequest]:
    """The entries of ``inputRequests``; absent and null hold none.

    Raises:
        MeshError: ``params`` when it is no object of questions.
    """
    if bytes(raw) in {b"", b"null"}:
        return {}
    return {key: decode_as(value, InputRequest) for key, value in pick(raw).items()}


def check(
    state: SealedState,
    *,
    tenant: str,
    principal: str,
    server: str,
    method: str,
    target: str,
    params: bytes | msgspec.Raw,
    now_ms: int,
) -> None:
    """Refuse a state that was not given for this very call.

    Raises:
        MeshError: ``params``; the text tells an expired state from one of another call, and
            nothing more.
    """
    same = (state.tenant, state.principal, state.server, state.method, state.target) == (
        tenant,
        principal,
        server,
        method,
        target,
    )
    if not same or state.digest != digest(method, params):
        raise MeshError(ErrorKind.PARAMS, "requestState belongs to another call")
    if now_ms >= state.exp:
        raise MeshError(
            ErrorKind.PARAMS,
            "requestState has expired; begin the call anew",
            data={"reason": "expired"},
        )


def digest(method: str, params: bytes | msgspec.Raw) -> str:
    """Name of a call: SHA-256 over its method and params in sorted, compact JSON.

    Canonical, because a client may write its arguments anew for the repeat: order of members,
    blanks, escapes and the spelling of numbers do not count. Left out are the envelope, what
    belongs to the repeat, and ``name`` or ``uri``; null counts as absent, and so do empty
    ``arguments``.

    Raises:
        MeshError: ``params`` when ``params`` cannot be read.
    """
    members: list[tuple[str, bytes]] = []
    for key, raw in pick(params).items():
        if key in _NOT_DIGESTED:
            continue
        value = canonical(raw)
        if value != b"null" and not (key == "arguments" and value == b"{}"):
            members.append((key, value))
    found = hashlib.sha256(method.encode())
    for key, value in sorted(members):
        # Lengths in front: two members never read as one.
        found.update(b"%d %d " % (len(key.encode()), len(value)))
        found.update(key.encode() + value)
    return found.hexdigest()
