"""``elicitation/create``: a server asks the client's user, by form or by link."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta

__all__ = ["ElicitParams", "ElicitResult", "ElicitationCompleteParams", "ElicitationRequiredData"]


class ElicitParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``elicitation/create``.

    Attributes:
        message: what the user is asked.
        mode: ``form`` or ``url``; absent means form.
        requested_schema: flat object schema of the form.
        url: link of url mode.
        elicitation_id: names it in the completion notice (2025-11-25 only).
        task: core-task metadata (2025-11-25).
    """

    message: str
    mode: str | None = None
    requested_schema: msgspec.Raw = ABSENT
    url: str | None = None
    elicitation_id: str | None = None
    task: msgspec.Raw = ABSENT


class ElicitResult(WithMeta, frozen=True, kw_only=True):
    """``action``: ``accept``, ``decline`` or ``cancel``; ``content`` only with accept."""

    action: str
    content: msgspec.Raw = ABSENT


class ElicitationCompleteParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/elicitation/complete`` (2025-11-25)."""

    elicitation_id: str


class ElicitationRequiredData(msgspec.Struct, frozen=True, kw_only=True):
    """``data`` of error -32042 (2025-11-25): url elicitations to finish first."""

    elicitations: tuple[ElicitParams, ...]
