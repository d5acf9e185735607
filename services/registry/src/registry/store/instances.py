"""``mesh_instances``: heartbeats, fed into the live view; and the ping that verifies a death."""

import asyncio
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import InstanceRecord
from mesh_chassis.bucket import KV
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.instance import answers
from mesh_chassis.clock import SYSTEM, Clock
from registry.core.liveness import Liveness

__all__ = ["InstanceStore"]

_RECORD = msgspec.json.Decoder(InstanceRecord)


class InstanceStore:
    """The live view. Make it with ``open``.

    Attributes:
        live: who is alive.
        nudge: set when somebody was lost, so that the reconciler looks at once.
    """

    def __init__(self, bus: Bus, kv: KV, *, ttl_s: float, clock: Clock) -> None:
        self.live = Liveness(ttl_s=ttl_s)
        self.nudge = asyncio.Event()
        self._bus = bus
        self._now: Callable[[], float] = clock.monotonic
        self._view: BucketView[InstanceRecord] = BucketView(
            kv, _read, on_change=self._changed, on_reset=self._reset
        )

    @classmethod
    async def open(cls, bus: Bus, *, ttl_s: float, clock: Clock = SYSTEM) -> "InstanceStore":
        """Load the bucket.

        Raises:
            MeshError: the bucket is not there, or cannot be read.
        """
        kv = await KV.open(bus, buckets.INSTANCES)
        store = cls(bus, kv, ttl_s=ttl_s, clock=clock)
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def fresh(self) -> bool:
        """Whether heartbeats are being heard."""
        return self._view.fresh

    async def answers(self, instance: str) -> bool | None:
        """Ping one process.

        Returns:
            True = it answers, False = the broker knows nobody by that name, None = no telling.
        """
        return await answers(self._bus, instance)

    def _changed(self, key: str, record: InstanceRecord | None) -> None:
        if record is not None:
            self.live.beat(key, record)
            return
        self.live.lose(key, self._now())
        self.nudge.set()

    def _reset(self) -> None:
        # A reconnect, a new leader or a new bucket: beats may have been missed by everybody.
        self.live.freeze(self._now())


def _read(key: str, value: bytes) -> InstanceRecord | None:
    record = _RECORD.decode(value)
    return record if key == buckets.key(record.service, record.instance) else None
