"""Who lives, from the heartbeats: other spawners, and the agents inside machines."""

from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import InstanceRecord
from mcp_proto.names import VM_SPAWNER
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch

__all__ = ["Peers"]

AGENT = "agent"
_record = msgspec.json.Decoder(InstanceRecord)


class Peers:
    """Spawners and agents that beat. Make it with ``open``."""

    def __init__(self) -> None:
        self._spawners: dict[str, InstanceRecord] = {}
        self._agents: set[str] = set()
        self._watch: Watch | None = None
        self.on_silent: Callable[[str], None] = lambda _instance: None
        """Called with an agent whose beats have ceased."""
        self.on_spawners: Callable[[], None] = lambda: None
        """Called when a spawner came or went."""

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 30.0) -> "Peers":
        """Watch the heartbeats; returns once those that exist are known.

        Raises:
            MeshError: ``bus``: the registry has not made the bucket in time.
        """
        peers = cls()
        kv = await KV.open(bus, buckets.INSTANCES, timeout_s=timeout_s)
        peers._watch = await kv.watch(on_entry=peers._on_entry)
        try:
            await peers._watch.ready
        except BaseException:
            await peers.close()
            raise
        return peers

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
        """Spawners from which a bid is awaited."""
        return {name for name, record in self._spawners.items() if not record.draining}

    def lives(self, spawner: str) -> bool:
        """Whether a spawner's heartbeat is there."""
        return spawner in self._spawners

    def _on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        service, _, name = key.partition(".")
        if service == AGENT:
            if value is not None:
                self._agents.add(name)
            elif name in self._agents:
                self._agents.discard(name)
                self.on_silent(name)
        elif service == VM_SPAWNER:
            known = name in self._spawners
            try:
                record = None if value is None else _record.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                record = None
            if record is None:
                self._spawners.pop(name, None)
            else:
                self._spawners[name] = record
            if known != (record is not None):
                self.on_spawners()
