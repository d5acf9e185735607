"""Converges the key ring to its plan (``core.rotation``), and configured tenants to existence.

Those are the one of development and the one of the server's own token.
Takes no input; runs on a timer, and at once when a record vanishes: a broker that lost its disk
comes back with empty buckets, and until there is a signing key no call is signed. Several
replicas may run it: keys are counted, so both try to make the same one and one wins.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mcp_proto.errors import MeshError
from tenant_auth.core.rotation import plan
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.keyring import KeyRingStore

__all__ = ["KeyRotation", "Reconciler"]

_TICK_S = 60.0
_RETRY_S = 1.0
_PAUSE_MIN_S = 0.2

_log = logging.getLogger(__name__)


class KeyRotation:
    """One round of the key ring.

    Args:
        keyring: stored keys.
        every_s: how long one key signs, in seconds.
        now_ms: broker time, Unix ms.
    """

    def __init__(self, keyring: KeyRingStore, *, every_s: int, now_ms: Callable[[], int]) -> None:
        self._keyring = keyring
        self._every_s = every_s
        self._now_ms = now_ms

    async def step(self) -> None:
        """Make and drop what the plan says.

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
        if not todo.make:
            return
        if await self._keyring.make(todo.make, now_ms=now_ms, use_from_ms=todo.use_from_ms):
            _log.info("signing key made", extra={"kid": todo.make, "use_from_ms": todo.use_from_ms})


class Reconciler:
    """The loop.

    Args:
        rotation: see ``KeyRotation``.
        keyring: stored keys.
        accounts: stored tenants.
        ensure: each makes one tenant that comes with the configuration.
    """

    def __init__(
        self,
        rotation: KeyRotation,
        keyring: KeyRingStore,
        accounts: AccountStore,
        ensure: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._rotation = rotation
        self._keyring = keyring
        self._accounts = accounts
        self._ensure = tuple(ensure)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            wait_s = _TICK_S
            try:
                await self.step()
            except MeshError as error:
                _log.warning("reconciling: %s", error.message)
                wait_s = _RETRY_S
            await self._wait(wait_s)

    async def step(self) -> None:
        """One round.

        Raises:
            MeshError: the bus failed, or the copies are not current; the next round goes on.
        """
        self._keyring.lost.clear()
        self._accounts.lost.clear()
        await self._rotation.step()
        for ensure in self._ensure:
            await ensure()

    async def _wait(self, wait_s: float) -> None:
        # Even a storm of vanishing records leaves the loop a pause, and collects in it.
        await asyncio.sleep(_PAUSE_MIN_S)
        waits = [
            asyncio.ensure_future(event.wait())
            for event in (self._keyring.lost, self._accounts.lost)
        ]
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
