"""Who may come in, how often, and how many at once: the limits every edge has.

Counted in memory, per edge, per source address and per connection; nothing waits. A refusal is
an answer with the time after which asking again helps.
"""

from collections import Counter

from gateway.config import LimitsConfig
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bounds import Bulkhead, TokenBucket

__all__ = ["EdgeGate", "Gate"]

BUSY_RETRY_S = 0.1
FULL_RETRY_S = 5.0


class Gate:
    """One connection: its rate and its requests in flight."""

    __slots__ = ("_edge", "_inflight", "_rate", "source")

    def __init__(self, edge: "EdgeGate", limits: LimitsConfig, source: str) -> None:
        self._edge = edge
        self._rate = TokenBucket(rate=limits.rate_per_second, burst=limits.burst)
        self._inflight = Bulkhead(
            limit=limits.inflight, name="requests of this connection", retry_after_s=BUSY_RETRY_S
        )
        self.source = source

    @property
    def inflight(self) -> int:
        """Requests running."""
        return self._inflight.used

    def pace(self, now: float) -> None:
        """Count one message.

        Args:
            now: monotonic seconds.

        Raises:
            MeshError: ``overloaded`` with the exact time to wait.
        """
        wait_s = self._rate.admit(now)
        if wait_s:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "the rate limit of this connection is reached",
                data={"limit": "rate"},
                retry_after_s=wait_s,
            )

    def enter(self) -> None:
        """Take a place for one request; every success needs one ``leave``.

        Raises:
            MeshError: ``overloaded``.
        """
        if not self._inflight.enter():
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"{self._inflight.limit} requests are in flight on this connection",
                data={"limit": "inflight"},
                retry_after_s=BUSY_RETRY_S,
            )
        if not self._edge.inflight.enter():
            self._inflight.leave()
            raise MeshError(
                ErrorKind.OVERLOADED,
                "the gateway is at its limit of requests in flight",
                data={"limit": "edge"},
                retry_after_s=BUSY_RETRY_S,
            )

    def leave(self) -> None:
        """Give the place back."""
        self._inflight.leave()
        self._edge.inflight.leave()


class EdgeGate:
    """One edge: its connections, by source, and its requests in flight."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._sources: Counter[str] = Counter()
        self.connections = 0
        self.inflight = Bulkhead(
            limit=limits.inflight_edge, name="requests of this edge", retry_after_s=BUSY_RETRY_S
        )

    def connect(self, source: str) -> Gate:
        """Let a connection in; every success needs one ``disconnect``.

        Args:
            source: its address.

        Raises:
            MeshError: ``overloaded``.
        """
        if self.connections >= self._limits.connections:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "the gateway takes no more connections",
                data={"limit": "connections"},
                retry_after_s=FULL_RETRY_S,
            )
        if self._sources[source] >= self._limits.connections_per_source:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "too many connections from this address",
                data={"limit": "connections_per_source"},
                retry_after_s=FULL_RETRY_S,
            )
        self.connections += 1
        self._sources[source] += 1
        return Gate(self, self._limits, source)

    def disconnect(self, gate: Gate) -> None:
        """A connection ended."""
        self.connections -= 1
        self._sources[gate.source] -= 1
        if self._sources[gate.source] <= 0:
            del self._sources[gate.source]
