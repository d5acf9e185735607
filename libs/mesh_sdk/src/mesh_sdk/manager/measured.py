"""What a manager has seen of the calls it made, when it is told to keep figures."""

from collections import deque

import msgspec

__all__ = ["Measured", "ToolFigures"]

TOOLS_MAX = 2_000
SAMPLES_MAX = 512
"""Newest durations kept per tool."""


class ToolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one tool; durations in ms over the newest ``SAMPLES_MAX``."""

    calls: int
    errors: int
    p50_ms: float
    p99_ms: float


class _Seen:
    __slots__ = ("calls", "durations", "errors")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.durations: deque[float] = deque(maxlen=SAMPLES_MAX)


class Measured:
    """Figures by ``server:tool``; tools beyond ``TOOLS_MAX`` are not counted."""

    def __init__(self) -> None:
        self._tools: dict[str, _Seen] = {}

    def note(self, tool: str, duration_s: float, *, failed: bool) -> None:
        """Count one call."""
        seen = self._tools.get(tool)
        if seen is None:
            if len(self._tools) >= TOOLS_MAX:
                return
            seen = self._tools[tool] = _Seen()
        seen.calls += 1
        seen.errors += failed
        seen.durations.append(duration_s * 1000)

    def figures(self) -> dict[str, ToolFigures]:
        """All of them, by tool."""
        return {tool: _figures(seen) for tool, seen in sorted(self._tools.items())}


def _figures(seen: _Seen) -> ToolFigures:
    ordered = sorted(seen.durations)
    last = len(ordered) - 1
    return ToolFigures(
        calls=seen.calls,
        errors=seen.errors,
        p50_ms=ordered[last // 2],
        p99_ms=ordered[round(last * 0.99)],
    )
