"""The broker's clock: the one clock by which start-by times are written and judged."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from mcp_proto.errors import MeshError

__all__ = ["BrokerClock", "wall_ms"]

TIMEOUT_S = 1.0
USER_INFO = "$SYS.REQ.USER.INFO"
"""Answered by the server itself, without JetStream; carries the server's time."""


def wall_ms() -> int:
    """Unix time in milliseconds, on our own clock."""
    return time.time_ns() // 1_000_000


class _ServerTime(msgspec.Struct, frozen=True):
    time: str


class _UserInfo(msgspec.Struct, frozen=True):
    server: _ServerTime


class BrokerClock:
    """Offset to the broker's clock, measured at each connect.

    Attributes:
        known: False while it could not be measured (no right to ask); the offset is then 0.
        offset_ms: broker's clock minus ours, exact to half a round trip.
    """

    def __init__(self) -> None:
        self.known = False
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Unix ms on the broker's clock."""
        return wall_ms() + self.offset_ms

    async def learn(self, ask: Callable[[str, float], Awaitable[bytes]]) -> None:
        """Measure; ``ask(subject, timeout_s)`` makes a request."""
        before = wall_ms()
        try:
            body = await ask(USER_INFO, TIMEOUT_S)
            text = msgspec.json.decode(body, type=_UserInfo).server.time
            # Nanoseconds are more digits than datetime reads.
            seconds, _, fraction = text.rstrip("Z").partition(".")
            there = datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00").timestamp()
        except (MeshError, msgspec.DecodeError, ValueError):
            return
        self.offset_ms = round(there * 1000 - (before + wall_ms()) / 2)
        self.known = True
