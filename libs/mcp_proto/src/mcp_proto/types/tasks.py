"""Both task forms: core tasks of 2025-11-25 and the tasks extension of the modern era.

The core form wraps the task in the result of the call and has its own ``tasks/result``; the
extension is flat, says ``resultType: "task"`` and carries the outcome in ``tasks/get``.
"""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import Result

__all__ = [
    "STATUSES",
    "TERMINAL",
    "CoreTask",
    "CreateTaskResult",
    "ExtensionTask",
    "ListTasksResult",
    "RelatedTask",
    "TaskIdParams",
    "TaskParams",
    "TaskStatusParams",
    "TaskUpdateParams",
]

STATUSES = ("working", "input_required", "completed", "failed", "cancelled")
TERMINAL = frozenset(("completed", "failed", "cancelled"))


class TaskParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Member ``task`` of a core-task request; ``ttl`` in ms."""

    ttl: int | None = None


class RelatedTask(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Value of ``_meta["io.modelcontextprotocol/related-task"]``."""

    task_id: str


class CoreTask(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A core task. ``ttl`` and ``poll_interval`` in ms; ``ttl`` null = kept without limit."""

    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl: int | None
    status_message: str | msgspec.UnsetType | None = msgspec.UNSET
    poll_interval: int | msgspec.UnsetType | None = msgspec.UNSET


class CreateTaskResult(WithMeta, frozen=True, kw_only=True):
    """Answer to a core-task request: the task instead of the result."""

    task: CoreTask


class TaskIdParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``tasks/get``, ``tasks/result``, ``tasks/cancel``."""

    task_id: str


class ListTasksResult(WithMeta, frozen=True, kw_only=True):
    """Result of ``tasks/list`` (core)."""

    tasks: tuple[CoreTask, ...]
    next_cursor: str | None = None


class TaskStatusParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/tasks/status`` (core), the result of ``tasks/get`` there too."""

    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl: int | None
    status_message: str | None = None
    poll_interval: int | None = None


class ExtensionTask(Result, frozen=True, kw_only=True):
    """A task of the extension: answer to a call, result of ``tasks/get``, notice.

    Attributes:
        result_type: ``task`` when it answers a call, ``complete`` from ``tasks/get``.
        ttl_ms: how long the task is kept; null = without limit.
        poll_interval_ms: how often to ask.
        result: the call's result, once completed (a tool error is a completed call).
        error: the JSON-RPC error object, once failed.
        input_requests: what is asked, while ``input_required``.
    """

    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | msgspec.UnsetType | None = msgspec.UNSET
    poll_interval_ms: int | None = None
    status_message: str | None = None
    result: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    input_requests: msgspec.Raw = ABSENT


class TaskUpdateParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``tasks/update`` (extension); partial answers are fine."""

    task_id: str
    input_responses: dict[str, msgspec.Raw]
