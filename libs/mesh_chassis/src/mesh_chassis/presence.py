"""The heartbeat: this process' record in ``mesh_instances``, alive for as long as it is.

The record is written every five seconds with a time to live of twenty, and at once when something
in it changes; a clean stop purges it, a death lets it expire. An instance may write its own key
and nothing else of that bucket, not even look whether it exists. Nobody needs the record for
routing, so a broker or registry that is not there yet costs only another attempt.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import InstanceRecord
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import now_ms
from mesh_chassis.tasks import Tasks

__all__ = ["BEAT_S", "TTL_S", "Presence"]

BEAT_S = 5.0
"""Interval of heartbeats; each is off by up to 20 %, so that a restart does not align them."""

TTL_S = 20
"""Life of a record: four beats, so that one lost write or a slow broker buries nobody."""

RETRY_S = 0.5
"""Wait after a write that failed: the registry makes the bucket, and it may start later."""

ANNOUNCE_S = 1.0
"""How long a start waits for the first record: whoever is ready can be found by its peers."""

JITTER = 0.2

_log = logging.getLogger(__name__)


class Presence:
    """Heartbeats of one process.

    Args:
        bus: connected.
        tasks: parent of the loop.
        version: version of the service.
        slots: calls it runs at once; 0 = not said.
        inflight: calls running now, asked at each beat.
        beat_s: interval, in seconds.
    """

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        *,
        version: str,
        slots: int = 0,
        inflight: Callable[[], int] = int,
        beat_s: float = BEAT_S,
    ) -> None:
        self._tasks = tasks
        self._inflight = inflight
        self._beat_s = beat_s
        self._changed = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._bucket = KV.bind(bus, buckets.INSTANCES)
        self._key = buckets.key(bus.service, bus.instance)
        self._record = InstanceRecord(
            service=bus.service,
            instance=bus.instance,
            version=version,
            node=socket.gethostname(),
            pid=os.getpid(),
            started_ms=now_ms(),
            slots=slots,
        )
        self.written = asyncio.Event()
        """Set once the broker has acknowledged a record."""
        self._tried = asyncio.Event()

    @property
    def record(self) -> InstanceRecord:
        """What the next beat writes."""
        return msgspec.structs.replace(self._record, inflight=self._inflight(), now_ms=now_ms())

    def set_servers(self, servers: Mapping[str, str]) -> None:
        """Say at once what is served: ``{tenant}.{server}`` → catalogue hash."""
        if dict(servers) != self._record.servers:
            self._record = msgspec.structs.replace(self._record, servers=dict(servers))
            self._changed.set()

    def set_declared(self, servers: Iterable[str]) -> None:
        """Say which servers this process is told to run: ``{tenant}.{server}``."""
        self._record = msgspec.structs.replace(self._record, declared=tuple(servers))
        self._changed.set()

    def set_slots(self, slots: int, inflight: Callable[[], int]) -> None:
        """Set the capacity and where to ask for its use."""
        self._inflight = inflight
        self._record = msgspec.structs.replace(self._record, slots=slots)
        self._changed.set()

    def set_draining(self) -> None:
        """Say at once that no more work is wanted."""
        self._record = msgspec.structs.replace(self._record, draining=True)
        self._changed.set()

    def beat_now(self) -> None:
        """Write without waiting for the interval, e.g. after a reconnect."""
        self._changed.set()

    async def start(self) -> None:
        """Begin; waits for the first write, not for a second one if that fails.

        A holder that is told to stop as soon as another is ready looks for it among the records.
        """
        self._loop = self._tasks.spawn(self._run(), name="presence")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_S):
                await self._tried.wait()

    async def stop(self) -> None:
        """Stop beating and purge the record, so that nobody waits for its expiry."""
        if self._loop is None:
            return
        self._loop.cancel()
        await asyncio.wait([self._loop])
        self._loop = None
        if not self.written.is_set():
            return
        try:
            await self._bucket.purge(self._key)
        except MeshError as error:
            _log.info("the instance record was left to expire: %s", error.message)

    async def _run(self) -> None:
        failing = False
        while True:
            self._changed.clear()
            wait_s = self._beat_s
            try:
                await self._bucket.put(self._key, self._encode(), ttl_s=TTL_S)
            except MeshError as error:
                wait_s = min(RETRY_S, self._beat_s)
                if not failing:
                    _log.warning("the heartbeat could not be written: %s", error.message)
                failing = True
            else:
                if failing:
                    _log.info("the heartbeat is written again")
                failing = False
                self.written.set()
            self._tried.set()
            spread = 1 + random.uniform(-JITTER, JITTER)  # noqa: S311 - spreads load, no secret
            await self._wait(wait_s * spread, changes=not failing)

    async def _wait(self, wait_s: float, *, changes: bool) -> None:
        if not changes:
            # While writes fail a change must not turn the retry into a busy loop.
            await asyncio.sleep(wait_s)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _encode(self) -> bytes:
        data = msgspec.json.encode(self.record)
        if len(data) <= buckets.INSTANCES.value_max_bytes:
            return data
        # The servers are a hint for the registry; being alive is the message that must arrive.
        _log.error(
            "the instance record has %d bytes, servers are left out", len(data),
            extra={"servers": len(self._record.servers)},
        )  # fmt: skip
        return msgspec.json.encode(msgspec.structs.replace(self.record, servers={}, declared=()))
