"""Who holds the name of an agent: whoever serves the catalogue that is listed, as long as it lives.

Two agents of one name with different tools would share the calls of both: half of them would reach
the one that does not know the tool, and the list would change with every registration.
"""

import msgspec

from mcp_proto.contracts.registry import HELD_BY, Catalog, Put
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.clock import Clock
from registry.store.instances import InstanceStore

__all__ = ["Holders"]

Pair = tuple[str, str]

NOTED_S = 10.0
"""For how long a registration counts before the heartbeat of its process has been heard."""
NOTED_MAX = 1_000
ASKED_MAX = 16
"""Instances that are pinged; when more than that say they serve it, some of them does."""
SHOWN_MAX = 4


class _Noted(msgspec.Struct, frozen=True):
    instance: str
    hash: str
    until_s: float


class Holders:
    """See the module.

    Args:
        instances: the live view, and the ping.
        clock: for how long a registration is remembered.
    """

    def __init__(self, instances: InstanceStore, clock: Clock) -> None:
        self._instances = instances
        self._clock = clock
        self._noted: dict[Pair, _Noted] = {}

    def note(self, pair: Pair, instance: str, catalog_hash: str) -> None:
        """An instance was registered with this catalogue just now."""
        if len(self._noted) >= NOTED_MAX:
            now_s = self._clock.monotonic()
            self._noted = {key: one for key, one in self._noted.items() if one.until_s > now_s}
        if len(self._noted) < NOTED_MAX:
            until_s = self._clock.monotonic() + NOTED_S
            self._noted[pair] = _Noted(instance, catalog_hash, until_s)

    async def refuse(self, params: Put, listed: Catalog | None) -> None:
        """Refuse another catalogue than the one listed while somebody serves that.

        Raises:
            MeshError: ``params`` naming who holds the name, also in ``data["heldBy"]``.
        """
        if listed is None or listed.hash == params.hash or params.replace:
            return
        said = self._said((params.tenant, params.server), listed.hash) - {params.instance}
        holders = sorted(said)
        for holder in holders[:ASKED_MAX]:
            # The heartbeat of one that was killed stands for a while; its own subject does not.
            if await self._instances.answers(holder) is not False:
                break
        else:
            if len(holders) <= ASKED_MAX:
                return
        shown = ", ".join(holders[:SHOWN_MAX]) + (", …" if len(holders) > SHOWN_MAX else "")
        raise MeshError(
            ErrorKind.PARAMS,
            f"the name {params.server} is held by {shown} with another catalogue; stop that one, "
            "take another name, or start this one with replace=True to take the name over",
            data={HELD_BY: holders[:SHOWN_MAX]},
        )

    def _said(self, pair: Pair, catalog_hash: str) -> set[str]:
        found = set(self._instances.live.holding(*pair, catalog_hash))
        noted = self._noted.get(pair)
        if noted is None or noted.hash != catalog_hash:
            return found
        return found | {noted.instance} if noted.until_s > self._clock.monotonic() else found
