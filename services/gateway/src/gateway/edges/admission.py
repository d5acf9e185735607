"""Who may come in, how often, and how many at once: the limits every edge has.

Counted in memory, per edge, per source address and per connection; nothing waits. A refusal is
an answer with the time after which asking again helps.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from gateway.config import LimitsConfig
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bounds import Bulkhead, TokenBucket

__all__ = ["EdgeGate", "Gate"]

BUSY_RETRY_S = 0.1
FULL_RETRY_S = 5.0


UNFINISHED_EDGE_BYTES = 128 * 1024 * 1024
UNFINISHED_SOURCE_BYTES = 16 * 1024 * 1024
"""Bytes of lines and bodies that are not complete yet, of one edge and of one address: forty
connections with nine unfinished megabytes each would otherwise cost 324 MB."""
COUNTED_BYTES = 64 * 1024
"""Less than this per connection is not worth counting: all connections together stay bounded."""


class Gate:
    """One connection: its rate, its requests in flight, its unfinished bytes."""

    __slots__ = (
        "_edge",
        "_inflight",
        "_limits",
        "_rate",
        "held",
        "principal",
        "shed",
        "source",
        "tenant",
    )

    def __init__(self, edge: "EdgeGate", limits: LimitsConfig, source: str) -> None:
        self._edge = edge
        self._limits = limits
        self._rate = TokenBucket(rate=limits.rate_per_second, burst=limits.burst)
        self._inflight = Bulkhead(
            limit=limits.inflight, name="requests of this connection", retry_after_s=BUSY_RETRY_S
        )
        self.source = source
        self.tenant = self.principal = ""
        """Who used it last; "" = nobody yet."""
        self.held = 0
        self.shed: Callable[[MeshError], object] | None = None
        """Ends the connection with an error; called when it holds too much."""

    def own(self, tenant: str, principal: str) -> None:
        """Count the connection as this principal's from now on.

        Raises:
            MeshError: ``overloaded``: the principal or the tenant has its share. The connection
                has to be ended then.
        """
        if self.principal != principal or self.tenant != tenant:
            self._edge.change_owner(self, tenant, principal)

    def hold(self, size: int) -> None:
        """Say how many bytes of an unfinished line or body are kept now.

        Where that makes too much, the biggest holder has to go, which need not be this one.
        """
        if size >= COUNTED_BYTES or self.held:
            self._edge.count_held(self, size if size >= COUNTED_BYTES else 0)

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
        if self._limits is not self._edge.limits:
            self._change_limits(self._edge.limits)
        wait_s = self._rate.admit(now)
        if wait_s:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "the rate limit of this connection is reached",
                data={"limit": "rate"},
                retry_after_s=wait_s,
            )

    def _change_limits(self, limits: LimitsConfig) -> None:
        """The edge has other limits now: a connection takes them over with its next message."""
        self._limits = limits
        self._rate = TokenBucket(rate=limits.rate_per_second, burst=limits.burst)
        self._inflight.limit = limits.inflight

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
        self.limits = limits
        self._sources: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()
        self._principals: Counter[tuple[str, str]] = Counter()
        self._of_tenant, self._of_principal = _shares(limits)
        self._held: dict[Gate, None] = {}
        self._held_bytes = 0
        self._held_sources: Counter[str] = Counter()
        self.connections = 0
        self.inflight = Bulkhead(
            limit=limits.inflight_edge, name="requests of this edge", retry_after_s=BUSY_RETRY_S
        )

    def change_limits(self, limits: LimitsConfig) -> None:
        """Judge by other limits from now on; who is in stays in."""
        self.limits = limits
        self._of_tenant, self._of_principal = _shares(limits)
        self.inflight.limit = limits.inflight_edge

    def connect(self, source: str) -> Gate:
        """Let a connection in; every success needs one ``disconnect``.

        Args:
            source: its address.

        Raises:
            MeshError: ``overloaded``.
        """
        if self.connections >= self.limits.connections:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "the gateway takes no more connections",
                data={"limit": "connections"},
                retry_after_s=FULL_RETRY_S,
            )
        if self._sources[source] >= self.limits.connections_per_source:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "too many connections from this address",
                data={"limit": "connections_per_source"},
                retry_after_s=FULL_RETRY_S,
            )
        self.connections += 1
        self._sources[source] += 1
        return Gate(self, self.limits, source)

    def change_owner(self, gate: Gate, tenant: str, principal: str) -> None:
        """Count a connection as another principal's.

        Raises:
            MeshError: ``overloaded``; it stays whose it was.
        """
        if self._principals[tenant, principal] >= self._of_principal:
            raise _shared("principal")
        if gate.tenant != tenant and self._tenants[tenant] >= self._of_tenant:
            raise _shared("tenant")
        self._disown(gate)
        self._tenants[tenant] += 1
        self._principals[tenant, principal] += 1
        gate.tenant, gate.principal = tenant, principal

    def _disown(self, gate: Gate) -> None:
        owner = (gate.tenant, gate.principal)
        if owner == ("", ""):
            return
        self._tenants[gate.tenant] -= 1
        self._principals[owner] -= 1
        if not self._tenants[gate.tenant]:
            del self._tenants[gate.tenant]
        if not self._principals[owner]:
            del self._principals[owner]
        gate.tenant = gate.principal = ""

    def count_held(self, gate: Gate, size: int) -> None:
        """Take over what one connection holds, and end the biggest holder when it is too much."""
        self._held_bytes += size - gate.held
        self._held_sources[gate.source] += size - gate.held
        gate.held = size
        if size:
            self._held[gate] = None
        else:
            self._held.pop(gate, None)
            if not self._held_sources[gate.source]:
                del self._held_sources[gate.source]
            return
        if self._held_bytes > UNFINISHED_EDGE_BYTES:
            self._shed_biggest(self._held)
        elif self._held_sources[gate.source] > UNFINISHED_SOURCE_BYTES:
            self._shed_biggest(one for one in self._held if one.source == gate.source)

    def _shed_biggest(self, holders: Iterable[Gate]) -> None:
        biggest = max(holders, key=lambda one: one.held)
        self.count_held(biggest, 0)
        if biggest.shed is not None:
            biggest.shed(
                MeshError(
                    ErrorKind.OVERLOADED,
                    "too many bytes of unfinished messages are held",
                    data={"limit": "unfinished"},
                    retry_after_s=FULL_RETRY_S,
                )
            )

    def disconnect(self, gate: Gate) -> None:
        """A connection ended."""
        gate.shed = None
        gate.hold(0)
        self._disown(gate)
        self.connections -= 1
        self._sources[gate.source] -= 1
        if self._sources[gate.source] <= 0:
            del self._sources[gate.source]


def _shares(limits: LimitsConfig) -> tuple[int, int]:
    """Connections of one tenant, and of one principal."""
    return (
        max(1, int(limits.connections * limits.tenant_share)),
        max(1, int(limits.connections * limits.principal_share)),
    )


def _shared(whose: str) -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        f"too many connections of this {whose}",
        data={"limit": f"{whose}_share"},
        retry_after_s=FULL_RETRY_S,
    )
