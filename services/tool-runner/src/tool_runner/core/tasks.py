"""The life of a durable task as pure steps: every change makes a new record to be written.

``working`` has an owner, the runner that executes the call; ``input_required`` has none, because
all it needs to go on is in the record, so any runner continues it. A terminal record never
changes again (MCP, "Task Status").
"""

from collections.abc import Mapping

import msgspec

from mcp_proto.codec import decode_as, encode, pick, remove, splice
from mcp_proto.contracts.tasks import (
    IDEMPOTENCY_KEY,
    TASK_META,
    TaskHeld,
    TaskRecord,
)
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.inputs import ASKABLE, refusal
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.capabilities import ClientCapabilities
from mcp_proto.types.meta import LOG_LEVEL

__all__ = [
    "MESSAGE_CHARS_MAX",
    "PAD",
    "answered",
    "began",
    "call_params",
    "cancelled",
    "completed",
    "failed",
    "lost",
    "noted",
    "progress_text",
    "resumed_params",
    "unkept",
    "waiting",
]

MESSAGE_CHARS_MAX = 500
"""Longest ``statusMessage``: it is written with every change."""
PAD = " " * 512
"""Room for an end without a result; see ``TaskRecord.pad``."""
INPUTS_BYTES_MAX = 256 * 1024
"""All questions of one round, and the server's state, by itself: the record keeps both."""
INPUTS_MAX = 32
"""Questions of one round; a person answers a handful."""
_KEYS_MAX = 1_000
_TOKEN = "progressToken"  # noqa: S105 - a member name

replace = msgspec.structs.replace


def call_params(params: bytes | msgspec.Raw, token: str) -> bytes:
    """Params of the call that a task makes.

    A task hears of progress under its own token and of no log messages; what was meant for the
    mesh alone does not travel on.

    Args:
        params: as the submitter sent them.
        token: progress token of the call.
    """
    meta = pick(params, "_meta").get("_meta")
    kept = remove(meta, LOG_LEVEL, TASK_META, IDEMPOTENCY_KEY) if meta is not None else b"{}"
    return splice(remove(params, "task"), {"_meta": splice(kept, {_TOKEN: encode(token)})})


def began(record: TaskRecord, *, owner: str, boot: str, now_ms: int) -> TaskRecord:
    """A runner takes the task over."""
    return replace(
        record,
        status="working",
        owner=owner,
        boot=boot,
        held=None,
        updated_ms=now_ms,
        pad=PAD,
    )


def noted(record: TaskRecord, message: str, now_ms: int) -> TaskRecord:
    """What the call says it is doing."""
    return replace(record, message=message[:MESSAGE_CHARS_MAX], updated_ms=now_ms, pad=PAD)


def unkept(record: TaskRecord, now_ms: int) -> TaskRecord:
    """The call has ended, or asks, with what cannot be written; this can, in any case."""
    error = MeshError(
        ErrorKind.OVERLOADED,
        "the store of tasks is full: how the call ended could not be kept",
        outcome=Outcome.UNKNOWN,
    )
    return failed(replace(record, message=""), error.to_object(), now_ms)


def completed(
    record: TaskRecord, result: bytes, *, parts: int, is_error: bool, now_ms: int
) -> TaskRecord:
    """The call has its result; ``parts`` > 0 = it lies beside the record."""
    return replace(
        _ended(record, "completed", now_ms),
        result=ABSENT if parts else msgspec.Raw(result),
        parts=parts,
        is_error=is_error,
    )


def failed(record: TaskRecord, error: ErrorObject, now_ms: int) -> TaskRecord:
    """The call ended with a JSON-RPC error."""
    return replace(
        _ended(record, "failed", now_ms),
        message=error.message[:MESSAGE_CHARS_MAX],
        error=msgspec.Raw(encode(error)),
    )


def lost(record: TaskRecord, why: str, now_ms: int) -> TaskRecord:
    """Whoever executed the call is gone: it may have run."""
    error = MeshError(ErrorKind.LOST, why, outcome=Outcome.UNKNOWN)
    return failed(record, error.to_object(), now_ms)


def cancelled(record: TaskRecord, now_ms: int) -> TaskRecord:
    """The submitter does not want it any more."""
    return replace(_ended(record, "cancelled", now_ms), message="cancelled by its client")


def _ended(record: TaskRecord, status: str, now_ms: int) -> TaskRecord:
    return replace(record, status=status, owner="", boot="", held=None, updated_ms=now_ms, pad="")


def waiting(
    record: TaskRecord,
    *,
    params: bytes,
    requests: Mapping[str, msgspec.Raw],
    state: msgspec.Raw,
    instance: str,
    now_ms: int,
    declared: ClientCapabilities,
    upstream_task: str = "",
) -> TaskRecord:
    """The call asks for input. Keys that were used before get a number: none is used twice.

    Raises:
        MeshError: ``too_large`` when the questions do not fit into a record, ``upstream`` when
            they are none, ``capability`` when the submitter cannot be asked that.
    """
    _check_questions(requests, state, declared)
    used = set(record.used)
    if len(used) + len(requests) > _KEYS_MAX:
        raise MeshError(ErrorKind.OVERLOADED, "the call asked too often", outcome=Outcome.UNKNOWN)
    names: dict[str, str] = {}
    for own in requests:
        key, number = own, 2
        while key in used or key in names:
            key, number = f"{own}-{number}", number + 1
        names[key] = own
    held = TaskHeld(
        params=msgspec.Raw(params),
        requests={key: requests[own] for key, own in names.items()},
        names=names,
        state=state,
        instance=instance,
        upstream_task=upstream_task,
    )
    return replace(
        record,
        status="input_required",
        owner="",
        boot="",
        used=(*record.used, *names),
        held=held,
        updated_ms=now_ms,
        pad="",
    )


class _Question(msgspec.Struct, frozen=True):
    method: str
    params: msgspec.Raw = ABSENT


def _check_questions(
    requests: Mapping[str, msgspec.Raw], state: msgspec.Raw, declared: ClientCapabilities
) -> None:
    """What an ordinary call may ask of its client, a task may ask too, and nothing more."""
    size = sum(len(key) + memoryview(one).nbytes for key, one in requests.items())
    if size > INPUTS_BYTES_MAX or memoryview(state).nbytes > INPUTS_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the questions of the call or their state exceed {INPUTS_BYTES_MAX} bytes",
            outcome=Outcome.EXECUTED,
        )
    problem = ""
    if len(requests) > INPUTS_MAX:
        problem = f"more than {INPUTS_MAX} questions"
    for one in requests.values():
        try:
            asked = decode_as(one, _Question)
        except MeshError:
            problem = "a question is malformed"
            break
        if asked.method not in ASKABLE:
            problem = f"{asked.method[:64]} is nothing a client can be asked"
            break
        _check_declared(declared, asked)
    if problem:
        raise MeshError(
            ErrorKind.UPSTREAM,
            f"the call asks for input in a form that cannot be relayed: {problem}",
            outcome=Outcome.UNKNOWN,
        )


def _check_declared(declared: ClientCapabilities, asked: _Question) -> None:
    """As for an ordinary call: who did not say that it can be asked this, is not asked."""
    refused = refusal(declared, asked.method, asked.params)
    if refused is None:
        return
    data: dict[str, object] = refused.data if isinstance(refused.data, dict) else {}
    kind = ErrorKind.CAPABILITY if data else ErrorKind.UPSTREAM
    raise MeshError(kind, refused.message, data=data, outcome=Outcome.UNKNOWN)


def answered(
    record: TaskRecord, responses: Mapping[str, msgspec.Raw], now_ms: int
) -> TaskRecord | None:
    """Take answers; keys that are not open are ignored. None = nothing changes.

    The task still waits while a question is open; without one it is ready to go on.
    """
    held = record.held
    if record.status != "input_required" or held is None:
        return None
    new = {key: raw for key, raw in responses.items() if key in held.requests}
    if not new:
        return None
    return replace(
        record,
        updated_ms=now_ms,
        held=replace(
            held,
            requests={key: raw for key, raw in held.requests.items() if key not in new},
            responses=held.responses | {held.names[key]: raw for key, raw in new.items()},
        ),
    )


def resumed_params(held: TaskHeld) -> bytes:
    """Params of the retry that carries the answers (MCP, multi-round-trip requests)."""
    answers = b"{%b}" % b",".join(
        encode(key) + b":" + bytes(raw) for key, raw in held.responses.items()
    )
    members = {"inputResponses": answers}
    if memoryview(held.state).nbytes:
        members["requestState"] = bytes(held.state)
    return splice(remove(held.params, "requestState"), members)


class _Progress(msgspec.Struct, frozen=True):
    progress: float = 0.0
    total: float | None = None
    message: str = ""


class _Notice(msgspec.Struct, frozen=True):
    method: str = ""
    params: _Progress = _Progress()


_NOTICE = msgspec.json.Decoder(_Notice)


def progress_text(notice: bytes) -> str:
    """What a progress notification says, as a status message; "" for anything else."""
    try:
        told = _NOTICE.decode(notice)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if told.method != "notifications/progress":
        return ""
    progress = told.params
    if progress.message:
        return progress.message[:MESSAGE_CHARS_MAX]
    done = f"{progress.progress:g}"
    return f"{done} of {progress.total:g}" if progress.total is not None else f"progress {done}"
