"""One wanted server: contends for it, hosts it while it is ours, hands it over in order.

Served subjects follow the record: they are taken once it is ours (calls wait while the child
starts) or, as a successor, once the own child is ready; they are given up before the child ends.
The deadline of the record counts from when a renewal was sent, so this runner stops the child
before anybody else may believe it gone.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from mcp_proto.contracts.registry import Catalog, ServerDefinition
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from tool_runner.core.placement import Move, Placement, decide, placement_key
from tool_runner.store import LEASE_TTL_S, PlacementStore, Seen
from tool_runner.supervisor.hosted import HostedServer, ServerState
from tool_runner.supervisor.probes import PROBE_EVERY_S, Probes

__all__ = ["Keeper", "Served", "Surroundings"]

RENEW_S = 1.5
RENEW_RETRY_S = 0.2
MARGIN_S = 1.0
"""The deadline is this much before the broker's."""
CLAIM_STEP_S = 0.01
"""Claims of a runner come one after another, each this much slower per server already held:
who has less to do is quicker, and many children do not start in one moment."""
CLAIM_MAX_S = 0.1
SUCCESSOR_WAIT_S = 2.5
"""A leaving holder waits this long for a successor to mark itself,"""
HANDOVER_S = 20.0
"""and this long for it to finish."""
DRAIN_S = 20.0
ERROR_PAUSE_S = 0.5

_log = logging.getLogger(__name__)


class Served(Protocol):
    """Subjects of one server that are being served."""

    async def drain(self) -> None:
        """Take no more calls, finish the running ones."""
        ...

    def resize(self, slots: int) -> None:
        """Change how many calls run at once."""
        ...


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a keeper needs of the rest of the runner.

    Attributes:
        bus: connected.
        store: placement records.
        probes: whether other runners live.
        host: makes a hosted server.
        serve: begins to take calls for it.
        held: how many servers this runner holds.
        room: whether it may hold one more.
        claiming: held while a claim is made.
        offer: registers a catalogue.
        forget: (tenant, name): no longer ours.
    """

    bus: Bus
    store: PlacementStore
    probes: Probes
    host: Callable[[ServerDefinition, Callable[[Catalog], None]], HostedServer]
    serve: Callable[[HostedServer], Awaitable[Served]]
    held: Callable[[], int]
    room: Callable[[], bool]
    claiming: asyncio.Lock
    offer: Callable[[Catalog], None]
    forget: Callable[[str, str], None]


class Keeper:
    """Contends for one server until cancelled or told to leave."""

    def __init__(self, definition: ServerDefinition, around: Surroundings) -> None:
        self.definition = definition
        self.hosted: HostedServer | None = None
        self._around = around
        self._store = around.store
        self._key = placement_key(definition.tenant, definition.name)
        self._nonce = f"{_PROCESS}:{secrets.token_hex(4)}"
        self._record = Placement(holder=around.bus.instance, nonce=self._nonce)
        self._revision = 0
        self._deadline = 0.0
        self._served: Served | None = None
        self._leaving = asyncio.Event()
        self._ended = False
        self._rival = ""
        self._rival_since = 0.0
        self._loop = asyncio.get_running_loop()

    @property
    def holds(self) -> bool:
        """Whether this runner has the server now."""
        return self._revision > 0

    def change(self, definition: ServerDefinition) -> None:
        """Run it with another definition, or again (a raised generation)."""
        self.definition = definition
        if self.hosted is not None:
            self.hosted.restart(definition)
        if self._served is not None:
            self._served.resize(definition.concurrency)

    async def run(self) -> None:
        """Contend, hold, and contend again; returns after ``leave``."""
        while not self._ended:
            try:
                warm = await self._contend()
                if self.holds:
                    await self._hold(warm)
                elif warm is not None:
                    await self._release_host(warm, drain_s=0.0)
            except MeshError as error:
                _log.warning("placement: %s", error.message, extra={"server": self.definition.name})
                await asyncio.sleep(ERROR_PAUSE_S)

    async def leave(self, *, handover: bool) -> None:
        """Give the server up: to a successor where one comes forward, else to nobody.

        Args:
            handover: wait for a successor.
        """
        # A server that does not run has no calls to lose: it moves without a handover.
        running = self.hosted is not None and self.hosted.state is ServerState.RUNNING
        if handover and self.holds and running:
            self._record = msgspec.structs.replace(self._record, leaving=True)
            self._leaving.set()
            self._store.poke(self._key)
            patience = self._loop.time() + SUCCESSOR_WAIT_S
            limit = self._loop.time() + HANDOVER_S
            while self.holds and self._loop.time() < limit:
                if not self._record.successor and self._loop.time() > patience:
                    break
                await self._store.changed(self._key, 0.1)
        self._ended = True
        self._store.poke(self._key)

    async def close(self) -> None:
        """Stop whatever still runs; after ``run`` has ended or was cancelled."""
        self._ended = True
        hosted, self.hosted = self.hosted, None
        if hosted is not None:
            await self._release_host(hosted, drain_s=0.0)
        if self._revision:
            await self._give_back()

    # Before it is ours

    async def _contend(self) -> HostedServer | None:
        """Until the record is ours. Returns the running server when we came as successor."""
        while not self._ended:
            seen = self._store.seen(self._key)
            absent = await self._absent(seen)
            move = decide(seen.record, me=self._record.holder, nonce=self._nonce, absent=absent)
            if move is Move.WAIT or not self._around.room():
                if self._store.seen(self._key).revision == seen.revision:
                    await self._store.changed(self._key, PROBE_EVERY_S)
                continue
            if await self._claim(seen, move):
                if move is not Move.SUCCEED:
                    return None
                warm = await self._succeed(seen)
                if warm is not None:
                    return warm
            else:
                await self._store.changed(self._key, CLAIM_STEP_S)
        return None

    async def _claim(self, seen: Seen, move: Move) -> bool:
        """Wait for our turn; then take the record, or say whether we may succeed its holder."""
        async with self._around.claiming:
            await asyncio.sleep(self._claim_delay())
            if self._ended or self._store.seen(self._key).revision != seen.revision:
                return False
            if not self._around.room():
                return False
            return move is Move.SUCCEED or await self._take(seen)

    async def _absent(self, seen: Seen) -> int:
        """How often in a row nobody was found where the holder should be."""
        record = seen.record
        if record is None or not record.holder or record.holder == self._record.holder:
            return 0
        if record.nonce != self._rival:
            self._rival, self._rival_since = record.nonce, self._loop.time()
        return await self._around.probes.absent(record.holder, self._rival_since)

    def _claim_delay(self) -> float:
        load = self._around.held() * CLAIM_STEP_S
        return min(CLAIM_MAX_S, load) + random.uniform(0, CLAIM_STEP_S)  # noqa: S311

    async def _take(self, seen: Seen) -> bool:
        sent = self._loop.time()
        fresh = Placement(holder=self._around.bus.instance, nonce=self._nonce)
        if seen.record is None:
            revision = await self._store.create(self._key, fresh)
        else:
            revision = await self._store.update(self._key, fresh, seen.revision)
        if revision is None:
            return False
        self._took(fresh, revision, sent)
        return True

    def _took(self, record: Placement, revision: int, sent: float) -> None:
        self._record = record
        self._revision = revision
        self._deadline = sent + LEASE_TTL_S - MARGIN_S

    async def _succeed(self, seen: Seen) -> HostedServer | None:
        """Start our own child while the leaving holder goes on serving, then take over."""
        assert seen.record is not None
        marked = msgspec.structs.replace(seen.record, successor=self._nonce)
        if await self._store.update(self._key, marked, seen.revision) is None:
            return None
        hosted = self._make_host()
        hosted.start()
        try:
            if await hosted.settled(HANDOVER_S):
                self._served = await self._around.serve(hosted)
                await self._seize_from(marked)
        except BaseException:
            await self._release_host(hosted, drain_s=0.0)
            raise
        if self.holds:
            return hosted
        await self._release_host(hosted, drain_s=DRAIN_S)
        await self._unmark(marked)
        return None

    async def _unmark(self, marked: Placement) -> None:
        """We could not start it: the leaving holder shall not wait for us."""
        seen = await self._store.read(self._key)
        if seen.record is not None and seen.record.successor == self._nonce:
            bare = msgspec.structs.replace(marked, successor="")
            await self._store.update(self._key, bare, seen.revision)
        await asyncio.sleep(SUCCESSOR_WAIT_S)

    async def _seize_from(self, marked: Placement) -> None:
        """The leaving holder renews meanwhile, so the revision may move a few times."""
        for _ in range(_SEIZE_ATTEMPTS):
            seen = await self._store.read(self._key)
            if seen.record is not None and seen.record.nonce != marked.nonce:
                return
            if await self._take(seen):
                return

    # While it is ours

    async def _hold(self, warm: HostedServer | None) -> None:
        hosted = self.hosted = warm or self._make_host()
        _log.info("holds the server", extra={"server": self.definition.name})
        handed_over = False
        try:
            if warm is None:
                hosted.start()
                self._served = await self._around.serve(hosted)
            handed_over = await self._renew()
        finally:
            self.hosted = None
            drain_s = DRAIN_S if handed_over or self._ended else 0.0
            await self._release_host(hosted, drain_s=drain_s)
            if not handed_over:
                await self._give_back()
            self._revision = 0
            self._leaving.clear()
            _log.info("no longer holds the server", extra={"server": self.definition.name})

    async def _renew(self) -> bool:
        """Until the record is lost or given up; True when a successor has it."""
        while not self._ended:
            left_s = self._deadline - self._loop.time()
            if left_s <= 0:
                _log.error("the lease ran out", extra={"server": self.definition.name})
                self._revision = 0
                return False
            wait_s = RENEW_S
            if not self._around.bus.connected:
                wait_s = RENEW_RETRY_S
            else:
                record, sent = self._record, self._loop.time()
                try:
                    async with asyncio.timeout(left_s):
                        revision = await self._store.update(self._key, record, self._revision)
                    if revision is not None:
                        self._took(self._record, revision, sent)
                    elif not await self._adopt():
                        return self._record.leaving
                    else:
                        wait_s = 0.0
                except (MeshError, TimeoutError) as error:
                    _log.warning("renewal: %s", error, extra={"server": self.definition.name})
                    wait_s = RENEW_RETRY_S
            if wait_s and (gone := await self._until_due(wait_s)) is not None:
                return gone
        return False

    async def _until_due(self, wait_s: float) -> bool | None:
        """Wait for the next renewal; a value when the watch shows that the record is not ours."""
        until = self._loop.time() + wait_s
        leaving = self._leaving.is_set()
        while (left_s := until - self._loop.time()) > 0:
            if self._ended or self._leaving.is_set() is not leaving:
                return None
            await self._store.changed(self._key, min(left_s, _TICK_S))
            seen = self._store.seen(self._key)
            if seen.revision > self._revision and not self._is_ours(seen):
                self._revision = 0
                return self._record.leaving
        return None

    async def _adopt(self) -> bool:
        """Somebody wrote the record. Ours still, marked by a successor? Then go on from it."""
        seen = await self._store.read(self._key)
        if not self._is_ours(seen) or seen.record is None:
            self._revision = 0
            return False
        self._revision = seen.revision
        self._record = msgspec.structs.replace(self._record, successor=seen.record.successor)
        return True

    def _is_ours(self, seen: Seen) -> bool:
        return seen.record is not None and seen.record.nonce == self._nonce

    # Its end

    async def _release_host(self, hosted: HostedServer, *, drain_s: float) -> None:
        served, self._served = self._served, None
        if drain_s:
            if served is not None:
                await served.drain()
            await hosted.close(drain_s=drain_s)
        else:
            # Somebody else may have the server by now: the child first, its calls fail with it.
            await hosted.close(at_once=True)
            if served is not None:
                await served.drain()
        self._around.forget(hosted.tenant, hosted.name)

    async def _give_back(self) -> None:
        revision, self._revision = self._revision, 0
        if not revision:
            return
        try:
            async with asyncio.timeout(_GIVE_BACK_S):
                await self._store.delete(self._key, revision)
        except (MeshError, TimeoutError) as error:
            _log.info("the lease is left to expire: %s", error)

    def _make_host(self) -> HostedServer:
        return self._around.host(self.definition, self._around.offer)


_PROCESS = secrets.token_hex(8)
_SEIZE_ATTEMPTS = 8
_TICK_S = 0.25
_GIVE_BACK_S = 2.0
