"""Who is alive, as far as heartbeats say, and when not to believe their absence.

After a broker outage longer than the heartbeat's TTL every key expires within a fraction of a
second of the restart, before any instance could beat again. So an absent key makes an instance
*lost*, never dead; dead it is only when a directed ping finds nobody, and during a freeze not
even then, because the instance may not have reconnected yet.
"""

from collections import deque
from collections.abc import Iterable

from mcp_proto.contracts.registry import InstanceRecord

__all__ = ["MASS_FRACTION", "MASS_MIN", "Liveness", "server_label", "split_label"]

MASS_FRACTION = 0.2
"""Share of the known instances that may be lost inside one TTL before that counts as an outage."""

MASS_MIN = 2
"""In a small fleet one instance is more than the fraction; one alone is never an outage."""


def server_label(tenant: str, server: str) -> str:
    """How heartbeats name a server: ``{tenant}.{server}``, decoded."""
    return f"{tenant}.{server}"


def split_label(label: str) -> tuple[str, str] | None:
    """Invert ``server_label``; tenants hold no dot. None when it is no label."""
    tenant, dot, server = label.partition(".")
    return (tenant, server) if dot and tenant and server else None


class Liveness:
    """The live view. All times are seconds on one monotonic clock, handed in by the caller.

    Args:
        ttl_s: lifetime of a heartbeat, also the length of a freeze.
    """

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._live: dict[str, InstanceRecord] = {}
        self._lost: set[str] = set()
        self._losses: deque[float] = deque()
        self._frozen_until_s = float("-inf")

    def beat(self, key: str, record: InstanceRecord) -> None:
        """A heartbeat arrived."""
        self._live[key] = record
        self._lost.discard(key)

    def lose(self, key: str, now_s: float) -> None:
        """The key of an instance is gone: expired, or purged by the instance itself."""
        if key not in self._live or key in self._lost:
            return
        self._lost.add(key)
        while self._losses and self._losses[0] <= now_s - self._ttl_s:
            self._losses.popleft()
        self._losses.append(now_s)
        known = len(self._live)
        if len(self._losses) >= MASS_MIN and len(self._losses) > MASS_FRACTION * known:
            self.freeze(now_s)

    def freeze(self, now_s: float) -> None:
        """Believe no absence for one TTL."""
        self._frozen_until_s = max(self._frozen_until_s, now_s + self._ttl_s)

    def frozen(self, now_s: float) -> bool:
        """Whether absence proves nothing at present."""
        return now_s < self._frozen_until_s

    def to_verify(self, now_s: float) -> tuple[str, ...]:
        """Keys of lost instances to ping now; none during a freeze."""
        return () if self.frozen(now_s) else tuple(sorted(self._lost))

    def bury(self, key: str) -> InstanceRecord | None:
        """A ping found nobody: drop the instance, unless it has beaten since.

        Returns:
            Its last record, or None when it is alive after all.
        """
        if key not in self._lost:
            return None
        self._lost.discard(key)
        return self._live.pop(key, None)

    def get(self, key: str) -> InstanceRecord | None:
        """Last record of an instance in the view."""
        return self._live.get(key)

    @property
    def lost(self) -> frozenset[str]:
        """Keys of instances that stay in the view without a heartbeat."""
        return frozenset(self._lost)

    def instances(self) -> Iterable[InstanceRecord]:
        """Every instance in the view, lost ones included."""
        return self._live.values()

    def serving(self, tenant: str, server: str) -> tuple[str, ...]:
        """Ids of the instances that serve a server, sorted."""
        label = server_label(tenant, server)
        return tuple(sorted(r.instance for r in self._live.values() if label in r.servers))

    def holding(self, tenant: str, server: str, catalog_hash: str) -> tuple[str, ...]:
        """Ids of the instances that serve this very catalogue of a server, sorted."""
        label = server_label(tenant, server)
        return tuple(
            sorted(r.instance for r in self._live.values() if r.servers.get(label) == catalog_hash)
        )

    def served(self) -> frozenset[tuple[str, str]]:
        """Every ``(tenant, server)`` that some instance serves."""
        return _pairs(label for record in self._live.values() for label in record.servers)

    def declared(self) -> frozenset[tuple[str, str]]:
        """Every ``(tenant, server)`` that some instance's own file tells it to run."""
        return _pairs(label for record in self._live.values() for label in record.declared)


def _pairs(labels: Iterable[str]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in map(split_label, set(labels)) if pair is not None)
