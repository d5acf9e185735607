"""The eight syslog levels MCP knows, compared."""

import msgspec

__all__ = ["Wishes", "is_finer", "reaches", "read"]

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


WISH_S = 60.0
"""How long a level that a caller asked for counts: a caller that stays asks with every request."""


class Wishes:
    """The level a server is set to while callers with different wishes share it.

    It is the most verbose one that anybody wanted lately; each caller's own level is applied to
    what comes. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, float] = {}
        self._current = ""

    def want(self, level: str, now: float) -> str:
        """A caller wants ``level``; the level to set the server to, "" = it is set so."""
        self._wanted[level] = now
        recent = (one for one, at in self._wanted.items() if now - at < WISH_S)
        finest = min(recent, key=_RANK.__getitem__)
        if finest == self._current:
            return ""
        self._current = finest
        return finest

    def forget(self) -> None:
        """The server did not hear of it, or is a new one."""
        self._current = ""
