"""Bids: what this host offers when an agent is to be placed, and how long it keeps its word."""

import asyncio
import os
import secrets
from collections.abc import Callable

from mcp_proto.contracts.swarm import Bid, BidRequest
from mesh_agents.config import HostSection
from mesh_agents.host.kinds import Kinds, RefusedError
from mesh_agents.host.looks import free_memory, has_gpu

__all__ = ["BID_S", "Auction"]

BID_S = 5.0
"""How long a bid is valid; meanwhile its place is kept."""
BIDS_MAX = 256
"""Bids that wait at once."""


class Auction:
    """Bids of one host.

    Args:
        host: instance id.
        node: name of this machine.
        section: its limits.
        kinds: what it can run.
        agents: how many agents of a tenant run now; "" = of all.
    """

    def __init__(
        self,
        host: str,
        node: str,
        section: HostSection,
        kinds: Kinds,
        agents: Callable[[str], int],
    ) -> None:
        self.draining = False
        self._host = host
        self._node = node
        self._section = section
        self._kinds = kinds
        self._agents = agents
        self._loop = asyncio.get_running_loop()
        self._bids: dict[str, tuple[str, BidRequest, float]] = {}

    def bid(self, request: BidRequest) -> Bid:
        """An offer, or why there is none."""
        self._forget_old()
        try:
            self._check(request)
        except RefusedError as error:
            return Bid(
                host=self._host, refused=error.reason, message=error.message,
                types=self._kinds.types,
            )  # fmt: skip
        bid = secrets.token_hex(8)
        if request.swarm:  # else somebody only looks around
            self._bids[bid] = (request.tenant, request, self._loop.time() + BID_S)
        return Bid(
            host=self._host, bid=bid, free=self._free(), types=self._kinds.types,
            capabilities={} if request.swarm else self._kinds.capabilities,
        )  # fmt: skip

    def redeem(self, bid: str, tenant: str, swarm: str) -> BidRequest | None:
        """Take a bid at its word, once; None = it is not, or no longer, one of ours."""
        self._forget_old()
        found = self._bids.pop(bid, None)
        if found is None or found[0] != tenant or found[1].swarm != swarm:
            return None
        return found[1]

    def _check(self, request: BidRequest) -> None:
        if request.local and request.node != self._node:
            raise RefusedError("limit", f"only agents on node {request.node} are asked for")
        if self.draining:
            raise RefusedError("limit", "this host is draining")
        self._kinds.check(request.agent_type, request.runtime)
        if request.gpu and not has_gpu():
            raise RefusedError("no_gpu", "this host has no GPU")
        section = self._section
        cores = section.cpu_max or float(os.cpu_count() or 1)
        if request.cpu > cores:
            raise RefusedError("limit", f"an agent may have at most {cores:g} cores here")
        available, _ = free_memory()
        most = section.memory_bytes_max or available
        if most and request.memory_bytes > most:
            raise RefusedError("limit", f"an agent may have at most {most} bytes here now")
        if self._taken("") >= section.agents_max or len(self._bids) >= BIDS_MAX:
            raise RefusedError("limit", f"this host runs at most {section.agents_max} agents")
        own = section.tenant_agents_max
        if own and self._taken(request.tenant) >= own:
            raise RefusedError("limit", f"this host runs at most {own} agents of one tenant")

    def _taken(self, tenant: str) -> int:
        waiting = sum(1 for whose, _, _ in self._bids.values() if tenant in {"", whose})
        return self._agents(tenant) + waiting

    def _free(self) -> float:
        slots = 1 - self._taken("") / max(1, self._section.agents_max)
        available, total = free_memory()
        return round(max(0.0, min(slots, available / total if total else 1.0)), 4)

    def _forget_old(self) -> None:
        now = self._loop.time()
        for bid in [bid for bid, (_, _, until) in self._bids.items() if until < now]:
            del self._bids[bid]
