"""Auctions: who makes a machine? Every spawner answers the same request.

An auction ends as soon as every known spawner has answered, at the latest after 150 ms, so that
one that is frozen costs no more than that.
"""

import asyncio

import msgspec

from mcp_proto.contracts.vm_spawner import AUCTION_S, AuctionRequest, Bid, auction_subject
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.waiters import Waiter

__all__ = ["Auction"]

BIDS_MAX = 1_000
_bid = msgspec.json.Decoder(Bid)


class Auction(Waiter):
    """One auction. Use ``Auction.hold``."""

    __slots__ = ("_awaited", "_done", "bids")

    def __init__(self, bus: Bus, awaited: set[str]) -> None:
        mux = bus.link.mux
        super().__init__(mux, auction_subject(), mux.loop.time() + AUCTION_S)
        self._awaited = set(awaited)
        self._done: asyncio.Future[None] = mux.loop.create_future()
        self.bids: list[Bid] = []

    @classmethod
    async def hold(cls, bus: Bus, request: AuctionRequest, awaited: set[str]) -> list[Bid]:
        """Ask every spawner.

        Args:
            bus: connected.
            request: what is wanted.
            awaited: spawners whose answer ends the auction early.

        Returns:
            What each said, offers and refusals.

        Raises:
            MeshError: ``bus`` while disconnected.
        """
        auction = cls(bus, awaited)
        reply = auction.mux.register(auction)
        # The mux looks after its waiters at intervals that are coarse beside 150 ms.
        timer = auction.mux.loop.call_later(AUCTION_S, auction._end)
        try:
            await bus.publish(auction_subject(), msgspec.json.encode(request), reply=reply)
            await auction._done
        finally:
            timer.cancel()
            auction.mux.forget(auction)
        return auction.bids

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one bid; no-responders ends the auction."""
        if block.startswith(b"NATS/1.0 503"):
            self._end()
            return
        try:
            bid = _bid.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if len(self.bids) < BIDS_MAX and all(one.spawner != bid.spawner for one in self.bids):
            self.bids.append(bid)
        self._awaited.discard(bid.spawner)
        if not self._awaited and self.bids:
            self._end()

    def check(self, now: float) -> None:
        """The time is over."""
        self._end()

    def fail(self, error: MeshError) -> None:
        """The connection is lost."""
        self._end()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
