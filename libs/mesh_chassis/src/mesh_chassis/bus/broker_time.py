"""The broker's clock: the one clock by which start-by times are written and judged."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from mcp_proto.errors import MeshError

__all__ = ["BrokerClock", "wall_ms"]

TIMEOUT_S = 1.0
TRIES = 5
QUICK_MS = 50
"""A round trip that leaves an error nobody minds; brokers nearby answer in a few."""
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
        """Measure; ``ask(subject, timeout_s)`` makes a request.

        Asked again while an answer takes long, and the quickest counts: a process that begins on a
        busy machine reads its answers late, and with an offset that is a second off every call of
        its would be refused as too late, or begun too late, until it connects again.
        """
        quickest_ms = None
        for _ in range(TRIES):
            before = wall_ms()
            try:
                body = await ask(USER_INFO, TIMEOUT_S)
                there_ms = _server_ms(body)
            except (MeshError, msgspec.DecodeError, ValueError):
                return
            after = wall_ms()
            if quickest_ms is None or after - before < quickest_ms:
                quickest_ms = after - before
                self.offset_ms = round(there_ms - (before + after) / 2)
                self.known = True
            if quickest_ms <= QUICK_MS:
                return


def _server_ms(body: bytes) -> float:
    """Unix ms in the broker's answer; raises ``ValueError`` and what ``msgspec`` raises."""
    text = msgspec.json.decode(body, type=_UserInfo).server.time
    # Nanoseconds are more digits than datetime reads.
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00").timestamp() * 1000
