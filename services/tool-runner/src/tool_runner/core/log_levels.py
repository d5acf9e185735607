"""The eight syslog levels MCP knows, compared."""

import msgspec

__all__ = ["is_finer", "reaches", "read"]

_ORDER = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_RANK = {name: rank for rank, name in enumerate(_ORDER)}


def read(raw: msgspec.Raw | None) -> str:
    """The level a caller asked for; "" when none or an unknown one."""
    name = bytes(raw)[1:-1].decode(errors="replace") if raw is not None else ""
    return name if name in _RANK else ""


def reaches(level: str, wanted: str) -> bool:
    """Whether a message of ``level`` is for somebody who asked for ``wanted`` and above."""
    return _RANK.get(level, 0) >= _RANK[wanted]


def is_finer(level: str, than: str) -> bool:
    """Whether ``level`` lets more through than ``than`` ("" = nothing asked for yet)."""
    return than not in _RANK or _RANK[level] < _RANK[than]
