"""A lease: at most one holder at a time, for leaders and for servers that may run only once.

One key with an expiry. Taking, renewing and giving back are compare-and-set writes, so two holders
cannot both win; the broker's expiry frees the key of a holder that died. The holder itself stops
believing **before** the broker does: its deadline counts from the moment a renewal was *sent*, on
its own monotonic clock, less a margin.

A pause of the process between looking at ``held`` and acting cannot be excluded by any lease, so
what must not happen twice carries ``fence``, a number that grows with every new holder, and its
store refuses older ones. The fence grows only where the bucket survives a restart of the broker.
"""

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV, Conflict

__all__ = ["Lease", "LeaseRecord"]

_MARGIN_SHARE = 0.2
_MARGIN_MIN_S = 0.2
_RENEW_SHARE = 1 / 3
_RETRY_MAX_S = 2.0
_RELEASE_S = 2.0
_TICK_S = 0.002

_log = logging.getLogger(__name__)


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a lease key.

    Attributes:
        holder: who holds it, for people and for routing.
        nonce: which object in which process; tells our own write from a namesake's.
    """

    holder: str
    nonce: str


class Lease:
    """One contender for one lease.

    Args:
        kv: a bucket with per-key expiry.
        key: key of the lease.
        holder: name of this contender.
        ttl_s: how long the lease outlives a dead holder, in seconds, at least 1. On a cluster
            20 s: an election takes up to 6.1 s and no renewal succeeds meanwhile.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kv: KV,
        key: str,
        holder: str,
        ttl_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl_s < 1:
            raise ValueError("a lease lasts at least 1 s")
        self._kv = kv
        self._key = key
        self._ttl_s = ttl_s
        self._clock = clock
        record = LeaseRecord(holder=holder, nonce=secrets.token_hex(8))
        self._nonce = record.nonce
        self._value = msgspec.json.encode(record)
        self._margin_s = max(_MARGIN_MIN_S, ttl_s * _MARGIN_SHARE)
        self._deadline = -math.inf
        self._revision = 0
        self._fence = 0

    @property
    def held(self) -> bool:
        """Whether the lease is certainly ours now."""
        return self._clock() < self._deadline

    @property
    def remaining_s(self) -> float:
        """Seconds for which it certainly stays ours without another renewal."""
        return max(0.0, self._deadline - self._clock())

    @property
    def fence(self) -> int:
        """Revision at which this holder took the lease; every later holder has a larger one."""
        return self._fence

    async def acquire(self) -> bool:
        """Take the lease if nobody has it; True when it is ours.

        Raises:
            MeshError: the bucket does not answer; the lease may then be ours without our knowing,
                and the next ``acquire`` finds out.
        """
        sent = self._clock()
        try:
            revision = await self._kv.create(self._key, self._value, ttl_s=self._ttl_s)
        except Conflict:
            return await self._reclaim()
        self._fence = revision
        self._took(revision, sent)
        return self.held

    async def renew(self) -> bool:
        """Prolong it; False when it is lost, for good, to somebody else or to time.

        Raises:
            MeshError: no answer; try again while ``held``.
        """
        if not self.held:
            self._lose()
            return False
        sent = self._clock()
        try:
            async with asyncio.timeout(self.remaining_s):
                revision = await self._kv.update(
                    self._key, self._value, self._revision, ttl_s=self._ttl_s
                )
        except (Conflict, TimeoutError):
            self._lose()
            return False
        self._took(revision, sent)
        return self.held

    async def release(self) -> None:
        """Give it back, so that the next holder need not wait; harmless when it is lost."""
        revision, held = self._revision, self.held
        self._lose()
        if not held:
            return
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._kv.delete(self._key, revision=revision)
        except Conflict:
            return  # it was somebody else's by then
        except (MeshError, TimeoutError) as error:
            _log.info("lease %s is left to expire: %s", self._key, error)

    async def holder(self) -> str:
        """Name of the present holder, "" when there is none; for display and routing hints."""
        entry = await self._kv.get(self._key)
        if entry is None:
            return ""
        return msgspec.json.decode(entry.value, type=LeaseRecord).holder

    async def run(
        self,
        *,
        on_acquired: Callable[[int], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Contend for ever: take, keep, and when lost contend again. Cancel it to give back.

        Args:
            on_acquired: called with the fence; must not block.
            on_lost: called once per ``on_acquired``, before anybody else can hold the lease.
        """
        ours = False
        try:
            while True:
                ours = await self._quietly(self.acquire)
                if ours:
                    on_acquired(self._fence)
                    await self._keep()
                    ours = False
                    on_lost()
                await self._pause(min(_RETRY_MAX_S, self._ttl_s / 4))
        finally:
            if ours:
                on_lost()
            await self.release()

    async def _keep(self) -> None:
        """Renew until it is lost."""
        interval = self._ttl_s * _RENEW_SHARE
        while self.held:
            await self._pause(min(interval, self.remaining_s + _TICK_S))
            if await self._quietly(self.renew):
                interval = self._ttl_s * _RENEW_SHARE
            else:
                interval = self._ttl_s * _RENEW_SHARE / 8

    async def _quietly(self, attempt: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await attempt()
        except MeshError as error:
            _log.warning("lease %s: %s", self._key, error)
            return False

    async def _reclaim(self) -> bool:
        """Our own write whose receipt got lost still stands: go on from it."""
        sent = self._clock()
        entry = await self._kv.get(self._key)
        if entry is None:
            return False  # gone this moment; the next attempt may have it
        if msgspec.json.decode(entry.value, type=LeaseRecord).nonce != self._nonce:
            return False
        try:
            revision = await self._kv.update(
                self._key, self._value, entry.revision, ttl_s=self._ttl_s
            )
        except Conflict:
            return False
        self._fence = revision
        self._took(revision, sent)
        return self.held

    def _took(self, revision: int, sent: float) -> None:
        self._revision = revision
        self._deadline = sent + self._ttl_s - self._margin_s

    def _lose(self) -> None:
        self._deadline = -math.inf
        self._revision = 0

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load
