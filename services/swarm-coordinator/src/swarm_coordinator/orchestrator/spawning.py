"""From an agent that was asked for to a process that runs: auction, spawn, what came of it."""

import logging
from collections.abc import Callable

import msgspec

from mcp_proto.contracts.swarm import Bid, BidRequest, Spawn, Spawned
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.orchestrator import requests
from swarm_coordinator.orchestrator.auction import Auction, Hosts

__all__ = ["Spawner", "Wishes", "offers"]

SPAWN_S = 55.0
"""Below the minute after which the state gives an agent up that nobody finished."""
OFFERS_TRIED_MAX = 3
"""Hosts tried one after the other; a bid is valid for 5 s."""
_log = logging.getLogger(__name__)


class _Resources(msgspec.Struct, frozen=True, rename="camel"):
    cpu: float = 0.0
    memory_bytes: int = 0
    gpu: bool = False


class Wishes(msgspec.Struct, frozen=True):
    """What ``AgentState.config`` says about where an agent may run."""

    runtime: str = ""
    resources: _Resources = _Resources()
    local: bool = False


_wishes = msgspec.json.Decoder(Wishes)


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """``host`` "" = nobody started it."""

    host: str
    spawned: Spawned


async def offers(bus: Bus, hosts: Hosts, tenant: str, *, node: str = "") -> list[Bid]:
    """What the hosts say to a request that places nothing; ``node`` = only those there offer.

    Raises:
        MeshError: ``bus``.
    """
    # Type ``tool`` is one that every host runs, so nobody refuses for the type.
    request = BidRequest(tenant=tenant, swarm="", agent_type="tool", local=bool(node), node=node)
    return await Auction.hold(bus, request, hosts.bidders())


class Spawner:
    """Places agents of one swarm.

    Args:
        bus: connected.
        hosts: from which bids are awaited.
        node: name of the coordinator's node, for tasks that run beside it.
        epoch: of the owner.
    """

    def __init__(self, bus: Bus, hosts: Hosts, *, node: str, epoch: Callable[[], int]) -> None:
        self._bus = bus
        self._hosts = hosts
        self._node = node
        self._epoch = epoch

    async def place(self, state: SwarmState, agent: AgentState) -> Placed:
        """Find a host and have it start the agent; never raises."""
        wishes = _wishes_of(agent)
        request = BidRequest(
            tenant=state.tenant,
            swarm=state.swarm,
            agent_type=agent.type,
            runtime=wishes.runtime,
            cpu=wishes.resources.cpu,
            memory_bytes=wishes.resources.memory_bytes,
            gpu=wishes.resources.gpu,
            local=wishes.local,
            node=self._node,
        )
        try:
            known = self._hosts.bidders()
            bids = await Auction.hold(self._bus, request, known)
        except MeshError as error:
            return _refused("failed", error.message)
        offered = [bid for bid in bids if bid.bid and not bid.refused]
        if not offered:
            return _nobody(agent, bids, known)
        last = _refused("failed", "no host started it")
        for bid in offered[:OFFERS_TRIED_MAX]:
            last = await self._spawn(state, agent, wishes, bid)
            if not last.spawned.refused:
                return last
        return last

    async def _spawn(
        self, state: SwarmState, agent: AgentState, wishes: Wishes, bid: Bid
    ) -> Placed:
        ask = Spawn(
            bid=bid.bid,
            swarm=state.swarm,
            agent=agent.id,
            epoch=agent.epoch,
            agent_type=agent.type,
            name=agent.name,
            capabilities=agent.capabilities,
            config=agent.config,
            cpu=wishes.resources.cpu,
            memory_bytes=wishes.resources.memory_bytes,
            owner_epoch=self._epoch(),
        )
        try:
            spawned = await requests.spawn(
                self._bus, state.tenant, bid.host, ask, timeout_s=SPAWN_S
            )
        except MeshError as error:
            _log.info("%s did not start an agent: %s", bid.host, error.message)
            return _refused("failed", error.message)
        return Placed(host=bid.host if not spawned.refused else "", spawned=spawned)


def _wishes_of(agent: AgentState) -> Wishes:
    if not memoryview(agent.config).nbytes:
        return Wishes()
    try:
        return _wishes.decode(agent.config)
    except msgspec.ValidationError:
        return Wishes()


def _refused(reason: str, message: str) -> Placed:
    return Placed(host="", spawned=Spawned(refused=reason, message=message))


def _nobody(agent: AgentState, bids: list[Bid], known: set[str]) -> Placed:
    if not bids:
        silent = f"none of {len(known)} agent hosts answered" if known else ""
        return _refused("no_runtime", silent or "no agent host is running")
    # A host that knows the type and lacks something says more than one that does not know it.
    said = next((bid for bid in bids if bid.refused and bid.refused != "no_runtime"), bids[0])
    message = said.message
    if said.refused == "no_runtime":
        types = sorted({kind for bid in bids for kind in bid.types})
        message = message or f"no host runs agents of type {agent.type}; known: {', '.join(types)}"
    return _refused(said.refused or "no_runtime", message)
