"""Converges the key rings to their plans (``core.rotation``), and configured tenants to existence.

Those are the one of development and the one of the server's own token.
Takes no input; runs on a timer, and at once when a record vanishes: a broker that lost its disk
comes back with empty buckets, and until there is a signing key no call is signed. Several
replicas may run it: keys are counted, so both try to make the same one and one wins.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mcp_proto.contracts.tenant_auth import SealedKey, SealingKey
from mcp_proto.errors import MeshError
from tenant_auth.core.rotation import LINGER_S, plan
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.keyring import KeyRingStore

__all__ = ["KeyRotation", "Reconciler"]

_TICK_S = 60.0
_RETRY_S = 1.0
_PAUSE_MIN_S = 0.2

_log = logging.getLogger(__name__)


Store = KeyRingStore[SealedKey] | KeyRingStore[SealingKey]


class KeyRotation:
    """One round of a key ring.

    Args:
        keyring: stored keys of one kind.
        every_s: how long one key is in use, in seconds.
        now_ms: broker time, Unix ms.
        linger_s: how long a key is kept after that, in seconds.
    """

    def __init__(
        self,
        keyring: Store,
        *,
        every_s: int,
        now_ms: Callable[[], int],
        linger_s: int = LINGER_S,
    ) -> None:
        self._keyring = keyring
        self._every_s = every_s
        self._linger_s = linger_s
        self._now_ms = now_ms

    @property
    def lost(self) -> asyncio.Event:
        """Set when a key vanished."""
        return self._keyring.lost

    async def step(self) -> None:
        """Make and drop what the plan says.

        Raises:
            MeshError: the bus failed; the next round goes on.
        """
        now_ms = self._now_ms()
        unusable = self._keyring.unusable()
        kind = self._keyring.prefix
        todo = plan(
            self._keyring.ring(),
            unusable=unusable,
            now_ms=now_ms,
            every_s=self._every_s,
            linger_s=self._linger_s,
        )
        if unusable:
            _log.error(
                "%s keys are sealed under another key encryption key",
                kind,
                extra={"kids": sorted(unusable)},
            )
        for kid in todo.drop:
            await self._keyring.drop(kid)
            _log.info("%s key dropped", kind, extra={"kid": kid})
        if not todo.make:
            return
        if await self._keyring.make(todo.make, now_ms=now_ms, use_from_ms=todo.use_from_ms):
            told = {"kid": todo.make, "use_from_ms": todo.use_from_ms}
            _log.info("%s key made", kind, extra=told)


class Reconciler:
    """The loop.

    Args:
        rotations: one per kind of key; see ``KeyRotation``.
        accounts: stored tenants.
        ensure: each makes one tenant that comes with the configuration.
    """

    def __init__(
        self,
        rotations: Sequence[KeyRotation],
        accounts: AccountStore,
        ensure: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._rotations = tuple(rotations)
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
        for lost in self._lost():
            lost.clear()
        for rotation in self._rotations:
            await rotation.step()
        for ensure in self._ensure:
            await ensure()

    async def _wait(self, wait_s: float) -> None:
        # Even a storm of vanishing records leaves the loop a pause, and collects in it.
        await asyncio.sleep(_PAUSE_MIN_S)
        waits = [asyncio.ensure_future(event.wait()) for event in self._lost()]
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    def _lost(self) -> list[asyncio.Event]:
        return [self._accounts.lost, *(rotation.lost for rotation in self._rotations)]
