"""What lists and cacheable results have in common."""

from mcp_proto.types.meta import WithMeta

__all__ = ["COMPLETE", "INPUT_REQUIRED", "TASK", "CacheHints", "ListParams", "ListResult", "Result"]

COMPLETE = "complete"
INPUT_REQUIRED = "input_required"
TASK = "task"
"""Values of ``resultType``; absent means complete. ``task`` belongs to the tasks extension."""


class ListParams(WithMeta, frozen=True, kw_only=True):
    """Params of every list. "" is a valid cursor; None asks for the first page."""

    cursor: str | None = None


class Result(WithMeta, frozen=True, kw_only=True):
    """What every result may carry; ``result_type`` None is left out (legacy)."""

    result_type: str | None = None


class CacheHints(Result, frozen=True, kw_only=True):
    """A modern result that says how long, and for whom, it stays good.

    Attributes:
        ttl_ms: milliseconds; None is left out (legacy).
        cache_scope: ``public`` or ``private``.
    """

    ttl_ms: int | None = None
    cache_scope: str | None = None


class ListResult(CacheHints, frozen=True, kw_only=True):
    """One page; ``next_cursor`` None = the last one."""

    next_cursor: str | None = None
