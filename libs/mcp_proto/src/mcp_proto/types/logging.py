"""Logging: levels, ``logging/setLevel``, ``notifications/message``."""

import msgspec

from mcp_proto.types.meta import WithMeta

__all__ = ["LEVELS", "LogMessageParams", "SetLevelParams", "is_wanted"]

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""RFC 5424 severities, least severe first."""

_RANK = {level: rank for rank, level in enumerate(LEVELS)}


class SetLevelParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``logging/setLevel`` (legacy)."""

    level: str


class LogMessageParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/message``; ``data`` is any JSON value."""

    level: str
    logger: str | None = None
    data: msgspec.Raw


def is_wanted(level: str, lowest: str) -> bool:
    """Whether a message of ``level`` passes the wish ``lowest``; "" wants none."""
    if not lowest:
        return False
    return _RANK.get(level, len(LEVELS)) >= _RANK.get(lowest, 0)
