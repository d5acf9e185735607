"""Converges the key ring to its plan (``core.rotation``). Takes no input, runs on a timer.

Several replicas may run it: keys are counted, so both try to make the same one and one wins.
"""

import asyncio
import logging
from collections.abc import Callable

from mcp_proto.errors import MeshError
from tenant_auth.core.rotation import plan
from tenant_auth.store.keyring import KeyRingStore

__all__ = ["KeyRotation"]

_TICK_S = 60.0
_RETRY_S = 5.0

_log = logging.getLogger(__name__)


class KeyRotation:
    """See the module.

    Args:
        keyring: stored keys.
        every_s: how long one key signs, in seconds.
        now_ms: broker time, Unix ms.
    """

    def __init__(self, keyring: KeyRingStore, *, every_s: int, now_ms: Callable[[], int]) -> None:
        self._keyring = keyring
        self._every_s = every_s
        self._now_ms = now_ms

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            wait_s = _TICK_S
            try:
                if self._keyring.fresh:
                    await self.step()
                else:
                    wait_s = _RETRY_S
            except MeshError as error:
                _log.warning("key rotation: %s", error.message)
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    async def step(self) -> None:
        """One round.

        Raises:
            MeshError: the bus failed; the next round goes on.
        """
        now_ms = self._now_ms()
        unusable = self._keyring.unusable()
        todo = plan(self._keyring.ring(), unusable=unusable, now_ms=now_ms, every_s=self._every_s)
        if unusable:
            _log.error(
                "signing keys are sealed under another key encryption key",
                extra={"kids": sorted(unusable)},
            )
        for kid in todo.drop:
            await self._keyring.drop(kid)
            _log.info("signing key dropped", extra={"kid": kid})
        if todo.make:
            made = await self._keyring.make(todo.make, now_ms=now_ms, use_from_ms=todo.use_from_ms)
            if made:
                _log.info(
                    "signing key made", extra={"kid": todo.make, "use_from_ms": todo.use_from_ms}
                )
