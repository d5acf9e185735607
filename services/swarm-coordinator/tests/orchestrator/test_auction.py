"""Auctions on a real broker: who is awaited, how long, who wins."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest_asyncio

from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import Bid, BidRequest
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from swarm_coordinator.orchestrator.auction import Auction

ConnectBus = Callable[..., Awaitable[Bus]]
REQUEST = BidRequest(tenant="acme", swarm="swarm_1", agent_type="function")


class Bidder:
    def __init__(self, bus: Bus, bid: Bid | None) -> None:
        self.asked: list[BidRequest] = []
        self._bid = bid
        self.slow_s = 0.0
        self.endpoint = Endpoint(bus, subject=wire.bid_subject(), handler=self._answer)

    async def _answer(self, call: Call) -> bytes:
        self.asked.append(msgspec.json.decode(call.payload, type=BidRequest))
        if self._bid is None:
            await asyncio.sleep(60)
        await asyncio.sleep(self.slow_s)
        return msgspec.json.encode(self._bid)


@pytest_asyncio.fixture
async def bidders(
    connect_bus: ConnectBus,
) -> AsyncIterator[Callable[..., Awaitable[list[Bidder]]]]:
    made: list[Bidder] = []

    async def make(*bids: Bid | None) -> list[Bidder]:
        for n, bid in enumerate(bids):
            bus = await connect_bus(wire.HOST, f"agent-host-{n + 1}")
            bidder = Bidder(bus, bid)
            await bidder.endpoint.start()
            made.append(bidder)
        return made

    yield make
    for bidder in made:
        await bidder.endpoint.drain(0.0)


async def test_an_auction_ends_when_everybody_known_has_bid_and_the_freest_is_first(
    broker, connect_bus: ConnectBus, bidders
) -> None:
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    await bidders(
        Bid(host="agent-host-1", bid="a", free=0.2),
        Bid(host="agent-host-2", refused="no_gpu"),
        Bid(host="agent-host-3", bid="c", free=0.9),
    )
    known = {f"agent-host-{n}" for n in (1, 2, 3)}
    began = asyncio.get_running_loop().time()
    bids = await Auction.hold(bus, REQUEST, known, timeout_s=5.0)
    assert asyncio.get_running_loop().time() - began < 2.0
    assert [bid.host for bid in bids] == ["agent-host-3", "agent-host-1", "agent-host-2"]


async def test_a_frozen_host_costs_an_auction_its_whole_time_and_no_more(
    broker, connect_bus: ConnectBus, bidders
) -> None:
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    await bidders(Bid(host="agent-host-1", bid="a", free=0.2), None)
    began = asyncio.get_running_loop().time()
    bids = await Auction.hold(bus, REQUEST, {"agent-host-1", "agent-host-2"})
    took = asyncio.get_running_loop().time() - began
    assert [bid.host for bid in bids] == ["agent-host-1"]
    assert 0.14 <= took < 1.0


async def test_an_auction_goes_on_until_the_first_bid_where_every_known_host_is_slow(
    broker, connect_bus: ConnectBus, bidders
) -> None:
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    (slow,) = await bidders(Bid(host="agent-host-1", bid="a", free=0.2))
    slow.slow_s = 0.4
    bids = await Auction.hold(bus, REQUEST, {"agent-host-1", "agent-host-2"})
    assert [bid.host for bid in bids] == ["agent-host-1"]


async def test_an_auction_without_hosts_ends_at_once(broker, connect_bus: ConnectBus) -> None:
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    began = asyncio.get_running_loop().time()
    assert await Auction.hold(bus, REQUEST, set()) == []
    assert asyncio.get_running_loop().time() - began < 0.1
