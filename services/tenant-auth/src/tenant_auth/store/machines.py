"""Tokens of machines in ``mesh_grants``, ``machine.{vmId}``: one each, forgotten at its end."""

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.machine_tokens import MachineToken
from mesh_chassis.bucket import KV, START_S
from mesh_chassis.bus.connection import Bus

__all__ = ["MachineTokens"]

_RECORD = msgspec.json.Decoder(MachineToken)
_KIND = "machine"


class MachineTokens:
    """Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    @classmethod
    async def open(cls, bus: Bus) -> "MachineTokens":
        """Wait until the registry has made the bucket.

        Raises:
            MeshError: it is not there after 30 s.
        """
        return cls(await KV.open(bus, buckets.GRANTS, timeout_s=START_S))

    async def put(self, token: MachineToken, live_s: int) -> None:
        """Keep a token instead of the one before it.

        Raises:
            MeshError: no receipt.
        """
        await self._kv.put(_key(token.vm_id), msgspec.json.encode(token), ttl_s=live_s)

    async def find(self, vm_id: str) -> MachineToken | None:
        """The token of a machine, from the leader: one that was revoked must not count.

        Raises:
            MeshError: no answer.
        """
        entry = await self._kv.latest(_key(vm_id))
        return None if entry is None else _RECORD.decode(entry.value)

    async def delete(self, vm_id: str) -> None:
        """Forget it; one that is gone stays so.

        Raises:
            MeshError: no receipt.
        """
        await self._kv.delete(_key(vm_id))


def _key(vm_id: str) -> str:
    return buckets.key(_KIND, vm_id)
