"""Converges the live view and the catalogue to what is true. Takes no input.

Runs on a timer and on a nudge (somebody's heartbeat is gone). Two steps, each safe to repeat and
safe beside other registries: verify the lost by ping and drop the dead; forget catalogues that
nobody served for long. Neither happens during a freeze (``core.liveness``) nor while the copies
this process decides from are not proven current.
"""

import asyncio
import logging

from mcp_proto.errors import MeshError
from mesh_chassis.clock import SYSTEM, Clock
from registry.config import LivenessConfig
from registry.handlers import Handlers
from registry.store.catalog import CatalogStore
from registry.store.definitions import DefinitionStore
from registry.store.instances import InstanceStore

__all__ = ["Reconciler"]

_TICK_S = 5.0
_LOST_TICK_S = 1.0
"""While somebody is lost but still answers: a process that stops answers until its last moment."""
_PINGS_AT_ONCE = 32
_PAUSE_MIN_S = 0.05

_log = logging.getLogger(__name__)


class Reconciler:
    """See the module."""

    def __init__(
        self,
        handlers: Handlers,
        catalog: CatalogStore,
        definitions: DefinitionStore,
        instances: InstanceStore,
        config: LivenessConfig,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self._handlers = handlers
        self._catalog = catalog
        self._definitions = definitions
        self._instances = instances
        self._clock = clock
        self._tick_s = min(_TICK_S, config.ttl_s / 4)
        # An outage of the broker must never empty the catalogue, whatever the configuration says.
        self._forget_after_s = max(config.forget_after_s, 3 * config.ttl_s)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                await self.step()
            except MeshError as error:
                _log.warning("reconciling: %s", error.message, extra={"internal": error.internal})
            await self._wait()

    async def step(self) -> None:
        """One round.

        Raises:
            MeshError: the bus failed; the next round goes on.
        """
        self._instances.nudge.clear()
        await self._verify()
        await self._forget()

    async def _wait(self) -> None:
        wait_s = min(_LOST_TICK_S, self._tick_s) if self._instances.live.lost else self._tick_s
        # Even a storm of nudges leaves the loop a pause.
        await asyncio.sleep(_PAUSE_MIN_S)
        try:
            async with asyncio.timeout(wait_s):
                await self._instances.nudge.wait()
        except TimeoutError:
            return

    async def _verify(self) -> None:
        if not self._instances.fresh:
            return
        lost = self._instances.live.to_verify(self._clock.monotonic())
        for at in range(0, len(lost), _PINGS_AT_ONCE):
            batch = lost[at : at + _PINGS_AT_ONCE]
            answers = await asyncio.gather(*(self._alive(key) for key in batch))
            for key, alive in zip(batch, answers, strict=True):
                # Somebody may have frozen the view meanwhile: then absence proves nothing.
                if alive is False and not self._instances.live.frozen(self._clock.monotonic()):
                    self._bury(key)

    async def _alive(self, key: str) -> bool | None:
        record = self._instances.live.get(key)
        return await self._instances.answers(record.instance) if record is not None else None

    def _bury(self, key: str) -> None:
        record = self._instances.live.bury(key)
        if record is not None:
            _log.info(
                "instance is gone",
                extra={"peer": record.instance, "servers": len(record.servers)},
            )

    async def _forget(self) -> None:
        now_s = self._clock.monotonic()
        current = self._instances.fresh and self._catalog.fresh and self._definitions.fresh
        if not current or self._instances.live.frozen(now_s):
            return
        due = self._handlers.last_served.due(
            self._catalog.pairs(),
            served=self._instances.live.served(),
            kept=self._definitions.kept(),
            now_s=now_s,
            forget_after_s=self._forget_after_s,
        )
        for pair in due:
            # The revision seen, so that a registration that arrives just now survives.
            if await self._handlers.forget(pair, revision=self._catalog.revision_of(pair)):
                _log.info("catalogue forgotten", extra={"tenant_id": pair[0], "server": pair[1]})
