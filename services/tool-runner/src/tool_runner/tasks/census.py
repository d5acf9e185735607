"""How many records each tenant has in a bucket, in the order in which the broker wrote them.

Fed by a watch, so it holds over all runners. Two of them may create at the same time, each below
the limit of what it has seen; the place of a record in the stream is the same for both, so each
can tell from it whether its own is one too many.
"""

import asyncio
from collections import Counter

__all__ = ["Census"]

IN_FLIGHT = 1_000
"""More records than all runners together write at one moment."""
PLACE_S = 2.0
"""Longest wait for the watch to bring a record that was just written."""


class Census:
    """Keys ``{tenant}.…`` of one bucket. Tell it of every entry of the watch."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._per_tenant: Counter[str] = Counter()
        self._waiting: dict[str, asyncio.Future[int]] = {}

    def count(self, tenant: str) -> int:
        """Records of a tenant that exist, as far as the watch has told."""
        return self._per_tenant[tenant]

    def near(self, tenant: str, most: int) -> bool:
        """Whether the bound is so near that a new record must ask for its place."""
        return self._per_tenant[tenant] >= most - IN_FLIGHT

    def entered(self, key: str) -> None:
        """The watch has brought a record."""
        if key in self._keys:
            return
        self._keys.add(key)
        tenant = key.partition(".")[0]
        self._per_tenant[tenant] += 1
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_result(self._per_tenant[tenant])

    def left(self, key: str) -> None:
        """The watch says that a record is gone."""
        if key not in self._keys:
            return
        self._keys.remove(key)
        tenant = key.partition(".")[0]
        self._per_tenant[tenant] -= 1
        if self._per_tenant[tenant] <= 0:
            del self._per_tenant[tenant]

    def expect(self, key: str) -> asyncio.Future[int]:
        """Ask for the place of a record that is about to be written; then ``place``."""
        waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        return waiting

    async def place(self, key: str, waiting: asyncio.Future[int]) -> int:
        """How many records of its tenant there were with this one, when it was written.

        Where the watch is late, how many there are as far as is known.
        """
        try:
            async with asyncio.timeout(PLACE_S):
                return await waiting
        except TimeoutError:
            return self._per_tenant[key.partition(".")[0]] + 1
        finally:
            self.forget(key, waiting)

    def forget(self, key: str, waiting: asyncio.Future[int]) -> None:
        """The record was not written."""
        if self._waiting.get(key) is waiting:
            del self._waiting[key]
        waiting.cancel()
