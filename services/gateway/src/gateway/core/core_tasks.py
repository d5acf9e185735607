"""The core tasks of 2025-11-25, made from the answers of the tasks extension.

The core form wraps the task in the answer to the call, names spans differently, has a request of
its own for the result, and counts a tool's own error as a failed task.
"""

import msgspec

from mcp_proto.codec import encode, encode_notification
from mcp_proto.contracts.tasks import PROGRESS_META, TASK_META
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.members import pick, remove, splice
from mcp_proto.types.meta import CLIENT_CAPABILITIES, RELATED_TASK, TASKS_EXTENSION
from mcp_proto.types.tasks import TERMINAL
from mcp_proto.versions import Feature, Revision, has

__all__ = [
    "CAPABILITY",
    "WAIT_META",
    "Pace",
    "Reached",
    "Seen",
    "asking",
    "call_params",
    "core_task",
    "created",
    "listed",
    "older_list",
    "read",
    "related",
    "request_params",
    "wants_task",
    "with_support",
]

CAPABILITY = b'{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}'
"""``capabilities.tasks`` of a server of 2025-11-25."""

WAIT_META = "mesh/wait"
"""In ``_meta`` of ``tasks/get``: ``{"ms": n, "since": lastUpdatedAt}`` holds the answer back until
the task has changed or waits or has ended."""

_METHODS = frozenset(("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"))
_SUPPORT = {"never": b'"forbidden"', "required": b'"required"'}
_OPTIONAL = b'"optional"'
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])


class Reached(msgspec.Struct, frozen=True):
    """How far a task is; ``total`` None = not known."""

    progress: float
    total: float | None = None


class _SeenMeta(msgspec.Struct, frozen=True):
    reached: Reached | None = msgspec.field(name=PROGRESS_META, default=None)


class Seen(msgspec.Struct, frozen=True, rename="camel"):
    """An answer to ``tasks/get`` (extension), as far as the core form needs it."""

    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None = None
    poll_interval_ms: int | None = None
    status_message: str | None = None
    result: msgspec.Raw = ABSENT
    error: ErrorObject | None = None
    input_requests: dict[str, msgspec.Raw] = {}
    meta: _SeenMeta = msgspec.field(name="_meta", default=_SeenMeta())

    @property
    def terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self.status in TERMINAL


class _Task(msgspec.Struct, frozen=True):
    ttl: int | None = None


class _IsError(msgspec.Struct, frozen=True, rename="camel"):
    is_error: bool = False


_SEEN = msgspec.json.Decoder(Seen)
_TTL = msgspec.json.Decoder(_Task)
_IS_ERROR = msgspec.json.Decoder(_IsError)


def wants_task(method: str, params: bytes | msgspec.Raw) -> bool:
    """Whether a request of 2025-11-25 is about tasks."""
    if method in _METHODS:
        return True
    if method != "tools/call" or b'"task"' not in bytes(params):
        return False
    return "task" in pick(params, "task")


def call_params(params: bytes) -> bytes:
    """Params of a stamped call as the extension says what ``task`` says.

    Raises:
        MeshError: ``params`` when ``task`` is malformed.
    """
    try:
        ttl = _TTL.decode(pick(params, "task")["task"]).ttl
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "params.task is malformed") from None
    wish: dict[str, object] = {"must": True}
    if ttl is not None:
        wish["ttlMs"] = max(0, ttl)
    return _declared(remove(params, "task"), {TASK_META: encode(wish)})


def request_params(
    params: bytes, wait_ms: int = 0, since: str = "", *, declare: bool = True
) -> bytes:
    """Params of any other request about tasks.

    Args:
        params: with the envelope.
        wait_ms: > 0 = the answer may be held back so long.
        since: ``lastUpdatedAt`` that is known already.
        declare: add the tasks extension to what the client declares.
    """
    wait = {WAIT_META: encode({"ms": wait_ms, "since": since})} if wait_ms else {}
    if declare:
        return _declared(params, wait)
    return splice(params, {"_meta": splice(pick(params, "_meta")["_meta"], wait)})


def _declared(params: bytes, members: dict[str, bytes]) -> bytes:
    """The tasks extension among the capabilities, which an old client declares by its revision."""
    meta = pick(params, "_meta")["_meta"]
    own = pick(meta, CLIENT_CAPABILITIES).get(CLIENT_CAPABILITIES, msgspec.Raw(b"{}"))
    extensions = pick(own, "extensions").get("extensions", msgspec.Raw(b"{}"))
    known = splice(own, {"extensions": splice(extensions, {TASKS_EXTENSION: b"{}"})})
    return splice(params, {"_meta": splice(meta, {CLIENT_CAPABILITIES: known, **members})})


def read(answer: bytes) -> Seen:
    """Take an answer to ``tasks/get``, or a task in place of a result, apart.

    Raises:
        MeshError: ``upstream`` when it is none.
    """
    try:
        return _SEEN.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.UPSTREAM, "the answer is no task") from None


def core_task(seen: Seen) -> bytes:
    """The task object; also the result of ``tasks/get`` and the params of the status notice."""
    status = seen.status
    if status == "completed" and _failed(seen.result):
        status = "failed"
    task: dict[str, object] = {
        "taskId": seen.task_id,
        "status": status,
        "createdAt": seen.created_at,
        "lastUpdatedAt": seen.last_updated_at,
        "ttl": seen.ttl_ms,
    }
    if seen.poll_interval_ms is not None:
        task["pollInterval"] = seen.poll_interval_ms
    if seen.status_message is not None:
        task["statusMessage"] = seen.status_message
    return encode(task)


def _failed(result: msgspec.Raw) -> bool:
    if b"isError" not in bytes(result):
        return False
    try:
        return _IS_ERROR.decode(result).is_error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


class Pace:
    """Progress of a task for the one who gave a token: it only grows.

    Args:
        params: of the request that may have a progress token, with the envelope.
    """

    def __init__(self, params: bytes | msgspec.Raw) -> None:
        self._token = _token(params)
        self._told = -1.0

    @property
    def wanted(self) -> bool:
        """Whether there is a token at all."""
        return self._token is not None

    def notice(self, seen: Seen) -> bytes | None:
        """``notifications/progress`` under the token; None = nothing that is news."""
        reached = seen.meta.reached
        if self._token is None or reached is None or reached.progress <= self._told:
            return None
        self._told = reached.progress
        params: dict[str, object] = {"progressToken": self._token, "progress": reached.progress}
        if reached.total is not None:
            params["total"] = reached.total
        if seen.status_message:
            params["message"] = seen.status_message
        return encode_notification("notifications/progress", related(encode(params), seen.task_id))


def _token(params: bytes | msgspec.Raw) -> msgspec.Raw | None:
    if b"progressToken" not in bytes(params):
        return None
    meta = pick(params, "_meta").get("_meta")
    return None if meta is None else pick(meta, "progressToken").get("progressToken")


def created(seen: Seen) -> bytes:
    """The answer to the call."""
    return b'{"task":' + core_task(seen) + b"}"


def listed(answer: bytes) -> bytes:
    """The result of ``tasks/list`` from the mesh's own list of tasks.

    Raises:
        MeshError: ``upstream`` when it is none.
    """
    found = pick(answer, "tasks", "nextCursor")
    tasks = b",".join(core_task(read(bytes(one))) for one in _RAWS.decode(found["tasks"]))
    cursor = found.get("nextCursor")
    more = b',"nextCursor":' + bytes(cursor) if cursor is not None else b""
    return b'{"tasks":[' + tasks + b"]" + more + b"}"


def related(data: bytes, task_id: str) -> bytes:
    """A result or params with the ``_meta`` that names the task."""
    meta = pick(data, "_meta").get("_meta", msgspec.Raw(b"{}"))
    named = splice(meta, {RELATED_TASK: encode({"taskId": task_id})})
    return splice(data, {"_meta": named})


def asking(seen: Seen) -> bytes:
    """What a task asks for, as a result that asks: the form that edges know how to answer."""
    requests: list[bytes] = []
    for key, raw in seen.input_requests.items():
        params = bytes(pick(raw, "params").get("params", msgspec.Raw(b"{}")))
        named = splice(raw, {"params": related(params, seen.task_id)})
        requests.append(encode(key) + b":" + named)
    return b'{"resultType":"input_required","requestState":%b,"inputRequests":{%b}}' % (
        encode(seen.task_id),
        b",".join(requests),
    )


def older_list(method: str, result: bytes, revision: Revision) -> bytes:
    """A list of tools as the revision knows it: with what each tool can do as a task."""
    if method != "tools/list" or not has(revision, Feature.CORE_TASKS):
        return result
    return with_support(result)


def with_support(result: bytes) -> bytes:
    """A list of tools that says of each whether it can run as a task (2025-11-25)."""
    tools = pick(result, "tools").get("tools")
    if tools is None:
        return result
    shown: list[bytes] = []
    for tool in _RAWS.decode(tools):
        data = bytes(tool)
        support = _OPTIONAL
        if TASK_META.encode() in data:
            meta = pick(tool, "_meta").get("_meta", msgspec.Raw(b"{}"))
            policy = bytes(pick(meta, TASK_META).get(TASK_META, b"")).strip(b'"').decode()
            support = _SUPPORT.get(policy, _OPTIONAL)
        if b'"execution"' in data:
            own = pick(tool, "execution").get("execution", msgspec.Raw(b"{}"))
            execution = splice(own, {"taskSupport": support})
            shown.append(splice(tool, {"execution": execution}))
        else:
            shown.append(data.rstrip()[:-1] + b',"execution":{"taskSupport":%b}}' % support)
    return splice(result, {"tools": b"[" + b",".join(shown) + b"]"})
