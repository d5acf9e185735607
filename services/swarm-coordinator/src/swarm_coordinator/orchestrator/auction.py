"""Auctions: who runs an agent? Every host answers the same request, and the freest one gets it.

An auction ends as soon as every known host has answered, at the latest after 150 ms, so that one
frozen host costs no more than that. Where nobody has said a word by then although hosts live, it
goes on until the first does: a busy machine is no machine without hosts.
"""

import asyncio
import logging

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.registry import InstanceRecord
from mcp_proto.contracts.swarm import Bid, BidRequest
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.waiters import Waiter
from mesh_chassis.watch import Watch

__all__ = ["AUCTION_S", "Auction", "Hosts"]

AUCTION_S = 0.15
"""Longest auction in which anybody bids."""
SILENCE_S = 2.0
"""Longest wait for a first bid where hosts are known to live."""
BIDS_MAX = 1_000
"""Bids that one auction looks at."""
_bid = msgspec.json.Decoder(Bid)
_record = msgspec.json.Decoder(InstanceRecord)
_log = logging.getLogger(__name__)


class Hosts:
    """The hosts of agents that live, from their heartbeats. Make it with ``open``."""

    def __init__(self) -> None:
        self._live: dict[str, InstanceRecord] = {}
        self._watch: Watch | None = None

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 30.0) -> "Hosts":
        """Watch the heartbeats of hosts; returns once those that exist are known.

        Raises:
            MeshError: ``bus``: the registry has not made the bucket in time.
        """
        hosts = cls()
        kv = await KV.open(bus, buckets.INSTANCES, timeout_s=timeout_s)
        hosts._watch = await kv.watch(f"{wire.HOST}.*", on_entry=hosts._on_entry)
        try:
            await hosts._watch.ready
        except BaseException:
            await hosts.close()
            raise
        return hosts

    @property
    def watch(self) -> Watch:
        """The watch, for health."""
        assert self._watch is not None
        return self._watch

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    def bidders(self) -> set[str]:
        """Hosts from which a bid is awaited."""
        return {name for name, record in self._live.items() if not record.draining}

    def __contains__(self, host: str) -> bool:
        """Whether a host's heartbeat is there."""
        return host in self._live

    def __len__(self) -> int:
        """Hosts that live."""
        return len(self._live)

    def _on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        name = key.partition(".")[2]
        if value is None:
            self._live.pop(name, None)
            return
        try:
            self._live[name] = _record.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._live.pop(name, None)


class Auction(Waiter):
    """One auction. Use ``Auction.hold``."""

    __slots__ = ("_awaited", "_done", "_over", "bids")

    def __init__(self, bus: Bus, awaited: set[str], timeout_s: float) -> None:
        mux = bus.link.mux
        super().__init__(mux, wire.bid_subject(), mux.loop.time() + timeout_s + SILENCE_S)
        self._awaited = set(awaited)
        self._over = False
        self._done: asyncio.Future[None] = mux.loop.create_future()
        self.bids: list[Bid] = []

    @classmethod
    async def hold(
        cls, bus: Bus, request: BidRequest, awaited: set[str], *, timeout_s: float = AUCTION_S
    ) -> list[Bid]:
        """Ask every host.

        Args:
            bus: connected.
            request: what is wanted.
            awaited: hosts whose answer ends the auction early.
            timeout_s: longest wait for everybody; for somebody it is ``SILENCE_S`` longer.

        Returns:
            Offers, the freest host first, then refusals.

        Raises:
            MeshError: ``bus`` while disconnected.
        """
        auction = cls(bus, awaited, timeout_s)
        reply = auction.mux.register(auction)
        # The mux looks after its waiters at intervals that are coarse beside 150 ms.
        timer = auction.mux.loop.call_later(timeout_s, auction._close)
        try:
            await bus.publish(wire.bid_subject(), msgspec.json.encode(request), reply=reply)
            await auction._done
        finally:
            timer.cancel()
            auction.mux.forget(auction)
        return sorted(
            auction.bids, key=lambda bid: (bool(bid.refused) or not bid.bid, -bid.free, bid.host)
        )

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one bid; no-responders ends the auction."""
        if block.startswith(b"NATS/1.0 503"):
            self._end()
            return
        try:
            bid = _bid.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if len(self.bids) < BIDS_MAX and all(one.host != bid.host for one in self.bids):
            self.bids.append(bid)
        self._awaited.discard(bid.host)
        if self.bids and (self._over or not self._awaited):
            self._end()

    def check(self, now: float) -> None:
        """The time is over."""
        self._end()

    def fail(self, error: MeshError) -> None:
        """The connection is lost."""
        self._end()

    def _close(self) -> None:
        """The time for everybody is over: end, unless somebody is there and nobody has spoken."""
        self._over = True
        if self.bids or not self._awaited:
            self._end()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
