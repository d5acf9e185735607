"""Progress and cancellation of a running request."""

import msgspec

from mcp_proto.jsonrpc import RequestId
from mcp_proto.types.meta import ProgressToken, WithMeta

__all__ = ["CancelledParams", "ProgressParams"]


class ProgressParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/progress``; ``progress`` only grows."""

    progress_token: ProgressToken = msgspec.field(name="progressToken")
    progress: float
    total: float | None = None
    message: str | None = None


class CancelledParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/cancelled``; ``request_id`` keeps its JSON type."""

    request_id: RequestId | None = None
    reason: str | None = None
