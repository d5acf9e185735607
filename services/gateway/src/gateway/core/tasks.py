"""Durable tasks in the words of the tasks extension, and who gets one (MCP, tasks extension).

Everything here is bytes to bytes; records come from ``mesh_tasks``. The core form of 2025-11-25 is
made from these answers at the edges (``core_tasks``).
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from mcp_proto.codec import encode
from mcp_proto.contracts.tasks import PROGRESS_META, TASK_META, TaskRecord
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick, splice
from mcp_proto.types.meta import TASKS_EXTENSION

__all__ = [
    "ACKNOWLEDGED",
    "REQUIRED",
    "Relayed",
    "Wish",
    "created",
    "declares",
    "detailed",
    "listed",
    "may_be_task",
    "relisted",
    "task_id_of",
    "undeclared",
    "updated_at",
    "wish_of",
]

ACKNOWLEDGED = COMPLETE_HEAD[:-1] + b"}"
"""The empty result of ``tasks/update`` and ``tasks/cancel``."""

REQUIRED = {"extensions": {TASKS_EXTENSION: {}}}
# From the last slash on: some JSON writers put a backslash before it.
_MARK = b"/" + TASKS_EXTENSION.rpartition("/")[2].encode()
_WISH_MARK = b"/" + TASK_META.rpartition("/")[2].encode()
_TASK = b'"task"'
_HEAD = len(COMPLETE_HEAD)
_NO_CAPABILITIES = msgspec.Raw(b"{}")


class _Extensions(msgspec.Struct, frozen=True):
    extensions: Mapping[str, msgspec.Raw] = {}


_EXTENSIONS = msgspec.json.Decoder(_Extensions)


class Relayed(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed in the id of a task that its server keeps itself.

    Attributes:
        tenant: of the caller.
        principal: the caller.
        server: keeps the task.
        id: its own id of it.
    """

    tenant: str
    principal: str
    server: str
    id: str


class Wish(msgspec.Struct, frozen=True):
    """Whether a call asks to run as a task, and for how long that is kept (ms, 0 = default).

    ``must``: it wants no other answer (the core tasks of 2025-11-25).
    """

    asked: bool = False
    ttl_ms: int = 0
    must: bool = False


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    ttl_ms: int | None = None
    must: bool = False


class _Ttl(msgspec.Struct, frozen=True):
    wish: bool | _Asked | None = msgspec.field(name=TASK_META, default=None)


_WISH = msgspec.json.Decoder(_Ttl)


def declares(capabilities: bytes | msgspec.Raw) -> bool:
    """Whether a request declares the tasks extension."""
    if capabilities == _NO_CAPABILITIES:
        return False
    data = bytes(capabilities)
    if _MARK not in data and b"\\u" not in data:
        return False
    try:
        return TASKS_EXTENSION in _EXTENSIONS.decode(data).extensions
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def undeclared(what: str) -> MeshError:
    """The error for a request that needs the extension and does not declare it."""
    return MeshError(
        ErrorKind.CAPABILITY,
        f"{what} needs the client capability {TASKS_EXTENSION}",
        data={"requiredCapabilities": REQUIRED},
    )


def wish_of(params: bytes | msgspec.Raw) -> Wish:
    """What ``_meta["mesh/task"]`` says.

    Raises:
        MeshError: ``params`` when it is malformed.
    """
    if _WISH_MARK not in bytes(params):
        return Wish()
    meta = pick(params, "_meta").get("_meta")
    if meta is None:
        return Wish()
    try:
        wish = _WISH.decode(meta).wish
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(
            ErrorKind.PARAMS, f'_meta["{TASK_META}"] must be true or {{"ttlMs": number}}'
        ) from None
    if isinstance(wish, _Asked):
        if wish.ttl_ms is not None and wish.ttl_ms < 0:
            raise MeshError(ErrorKind.PARAMS, f'_meta["{TASK_META}"].ttlMs must not be negative')
        return Wish(asked=True, ttl_ms=wish.ttl_ms or 0, must=wish.must)
    return Wish(asked=bool(wish))


def may_be_task(result: bytes | msgspec.Raw) -> bool:
    """Quick test for ``resultType: task``; never False for one."""
    if bytes(memoryview(result)[:_HEAD]) == COMPLETE_HEAD:
        return False
    data = bytes(result)
    return _TASK in data or b"\\u" in data


def task_id_of(result: bytes | msgspec.Raw) -> str | None:
    """Id in a result that is a task; None for every other result."""
    found = pick(result, "resultType", "taskId")
    kind, name = found.get("resultType"), found.get("taskId")
    if kind is None or bytes(kind) != _TASK or name is None:
        return None
    try:
        return msgspec.json.decode(name, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def relisted(result: bytes | msgspec.Raw, task_id: str) -> bytes:
    """A task of a server under the id that its client knows."""
    return splice(result, {"taskId": encode(task_id)})


def created(record: TaskRecord) -> bytes:
    """The answer to the call: the task in place of a result."""
    return b'{"resultType":"task",' + _common(record) + b"}"


def detailed(record: TaskRecord, result: bytes = b"") -> bytes:
    """The answer to ``tasks/get``, and the params of ``notifications/tasks``.

    Args:
        record: the task.
        result: of the call, where the record does not hold it.
    """
    more = b""
    held = record.held
    if record.status == "completed":
        more = b',"result":' + (result or bytes(record.result))
    elif record.status == "failed":
        more = b',"error":' + bytes(record.error)
    elif record.status == "input_required" and held is not None:
        more = b',"inputRequests":{%b}' % b",".join(
            encode(key) + b":" + bytes(raw) for key, raw in held.requests.items()
        )
    return COMPLETE_HEAD + _common(record) + more + b"}"


def listed(record: TaskRecord) -> bytes:
    """One entry of the caller's list of tasks; without what it brought."""
    return b"{" + _common(record) + (b',"result":{"isError":true}}' if record.is_error else b"}")


def updated_at(record: TaskRecord) -> str:
    """``lastUpdatedAt`` as it is shown."""
    return _iso(record.updated_ms)


def _common(record: TaskRecord) -> bytes:
    members: dict[str, object] = {
        "taskId": record.id,
        "status": record.status,
        "createdAt": _iso(record.created_ms),
        "lastUpdatedAt": _iso(record.updated_ms),
        "ttlMs": record.ttl_ms,
        "pollIntervalMs": record.poll_ms,
    }
    if record.message:
        members["statusMessage"] = record.message
    if record.progress is not None and not record.terminal:
        progress = {"progress": record.progress, "total": record.total}
        members["_meta"] = {PROGRESS_META: progress}
    return encode(members)[1:-1]


def _iso(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
