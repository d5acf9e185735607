"""Idempotency keys without I/O: whose call a key names, and what its record says.

A key belongs to a tenant, a principal, a server and a tool; the record's name is made of all of
them, so nobody reaches another's result by knowing the key.
"""

import hashlib
from enum import StrEnum

import msgspec

from mcp_proto import buckets
from mcp_proto.canonical import canonical
from mcp_proto.codec import encode, pick
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_CHARS_MAX, owner_token
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "Kept",
    "Question",
    "State",
    "arguments_digest",
    "full",
    "is_tag",
    "key_of",
    "lost",
    "misused",
    "named",
    "outcome_of",
    "question_of",
    "record_name",
    "round_of",
    "tag_of",
    "unheld",
]

_TEXT = msgspec.json.Decoder(str)
_MARK = IDEMPOTENCY_KEY.partition("/")[2].encode()
"""Without the slash, which some JSON writers escape."""


class State(StrEnum):
    """What became of the first call."""

    RUNNING = "running"
    DONE = "done"
    """It has a final answer, a result or an error."""
    OPEN = "open"
    """It asked for input and is answered with its open question; who brings answers goes on."""
    TASK = "task"
    """It became a durable task."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Value in ``mesh_idempotency``.

    Attributes:
        state: see ``State``.
        digest: of the arguments; another one under the same key is a mistake.
        owner: runner that executes it, while ``running``; that holds the parked call, while
            ``open`` ("" = nobody does, its server keeps no call open).
        boot: run of that runner.
        result: of the call, or its open question; ``ABSENT`` when it lies in parts.
        parts: number of keys that hold a large result.
        error: JSON-RPC error object in its place.
        task_id: the durable task.
        round: digest of the state that goes with the open question; "" = it has none.
        pad: makes a running record so large that its error can be written over it in a full
            bucket, which takes nothing that grows.
    """

    state: State
    digest: str
    owner: str = ""
    boot: str = ""
    result: msgspec.Raw = ABSENT
    parts: int = 0
    error: ErrorObject | None = None
    task_id: str = ""
    round: str = ""
    pad: str = ""


class _Meta(msgspec.Struct, frozen=True):
    parked: msgspec.Raw = msgspec.field(default=ABSENT, name="mesh/parked")


class _Result(msgspec.Struct, frozen=True, rename="camel"):
    result_type: str = ""
    request_state: msgspec.Raw = ABSENT
    meta: _Meta = msgspec.field(default=_Meta(), name="_meta")


class Question(msgspec.Struct, frozen=True):
    """Of an answer that asks: the digest of its state, and whether this runner parks the call."""

    round: str
    parked: bool


_RESULT = msgspec.json.Decoder(_Result)
_ASKS = b"input_required"
_TAG_CHARS = 64


def key_of(params: bytes | msgspec.Raw) -> str | None:
    """The idempotency key of a call; None = it has none.

    Raises:
        MeshError: ``params`` when it is no usable key.
    """
    if _MARK not in bytes(params):
        return None
    meta = pick(params, "_meta").get("_meta")
    raw = None if meta is None else pick(meta, IDEMPOTENCY_KEY).get(IDEMPOTENCY_KEY)
    if raw is None:
        return None
    try:
        key = _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        key = ""
    if not 0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX:
        raise MeshError(
            ErrorKind.PARAMS,
            f'_meta["{IDEMPOTENCY_KEY}"] must be a string of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} '
            "characters",
        )
    return key


def record_name(tenant: str, principal: str, server: str, tool: str, key: str) -> str:
    """Key of the record: tenant, principal's token, and a digest of everything that names it."""
    parts = msgspec.json.encode([tenant, principal, server, tool, key])
    return named(tenant, principal, hashlib.sha256(parts).hexdigest())


def named(tenant: str, principal: str, tag: str) -> str:
    """Key of a record of this principal by its last token (``tag_of``)."""
    return buckets.key(tenant, owner_token(principal), tag)


def tag_of(name: str) -> str:
    """What a parked call carries in its id, to find its record when it goes on."""
    return name.rpartition(".")[2]


def is_tag(text: str) -> bool:
    """Whether that can be one."""
    return len(text) == _TAG_CHARS and all(char in "0123456789abcdef" for char in text)


def arguments_digest(arguments: bytes | msgspec.Raw) -> str:
    """Digest of arguments in sorted, compact form: a client may write them anew for a repeat.

    Raises:
        MeshError: ``params`` when they are not JSON.
    """
    return hashlib.sha256(canonical(arguments or b"{}")).hexdigest()


def round_of(params: bytes | msgspec.Raw) -> str | None:
    """Which question a call goes on from, as ``Question.round``; None = it is a first call."""
    data = bytes(params)
    if b"requestState" not in data and b"inputResponses" not in data and b"\\u" not in data:
        return None
    found = pick(params, "requestState", "inputResponses")
    return _round(found.get("requestState", ABSENT)) if found else None


def question_of(answer: bytes) -> Question | None:
    """What an answer that asks for input asks with; None = it is a final one."""
    if _ASKS not in answer and b"\\u" not in answer:
        return None
    try:
        result = _RESULT.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if result.result_type != _ASKS.decode():
        return None
    return Question(_round(result.request_state), bool(bytes(result.meta.parked)))


def _round(state: msgspec.Raw) -> str:
    if not bytes(state):
        return ""
    try:
        data = encode(_TEXT.decode(state))  # however it was escaped
    except (msgspec.DecodeError, UnicodeDecodeError):
        data = bytes(state)
    return hashlib.sha256(data).hexdigest()[:32]


def outcome_of(error: ErrorObject) -> Outcome:
    """What the error of a call says about its effect."""
    return MeshError.from_object(error).outcome


def misused() -> MeshError:
    """The key is taken by something else."""
    return MeshError(
        ErrorKind.PARAMS,
        "the idempotency key was used for another call",
        data={"key": IDEMPOTENCY_KEY},
    )


def lost(owner: str) -> ErrorObject:
    """The runner of the first call is gone; a second execution could be a second effect."""
    return MeshError(
        ErrorKind.LOST,
        f"the runner {owner} was lost while it executed the first call with this idempotency key",
        outcome=Outcome.UNKNOWN,
    ).to_object()


def unheld(why: str) -> ErrorObject:
    """The call asked for input and is held no longer; how far it came nobody knows."""
    return MeshError(
        ErrorKind.LOST,
        f"the first call with this idempotency key waited for input: {why}",
        outcome=Outcome.UNKNOWN,
    ).to_object()


def full(limit: int) -> MeshError:
    """The tenant has as many records as it may."""
    return MeshError(
        ErrorKind.OVERLOADED,
        f"the tenant has {limit} idempotency keys, as many as it may",
        data={"limit": limit},
        retry_after_s=5.0,
    )
