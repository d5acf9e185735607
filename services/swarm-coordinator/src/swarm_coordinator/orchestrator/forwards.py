"""Calls that wait for an owner which is another process: they end soon after it is none any more.

A process that was killed answers nothing, and the broker hears of its end a moment later: a call
that was on its way to it would wait for its whole time. The lease of the swarm tells instead.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["Forwards", "OwnerGone"]

GRACE_S = 0.5
"""For an answer that a change of owner overtakes: who hands over answers first."""
T = TypeVar("T")


class OwnerGone(Exception):  # noqa: N818 - an answer, not a fault
    """Another process owns the swarm now; what became of the call, nobody knows."""


class Forwards:
    """Of one replica, by lease."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Timeout]] = {}

    async def during(self, key: str, answer: Awaitable[T]) -> T:
        """Wait for an answer of the owner of a swarm.

        Args:
            key: of its lease.
            answer: what is waited for.

        Raises:
            OwnerGone: the lease is somebody else's since.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                waiting = self._waiting.setdefault(key, set())
                waiting.add(limit)
                try:
                    return await answer
                finally:
                    waiting.discard(limit)
                    if not waiting:
                        self._waiting.pop(key, None)
        except TimeoutError:
            if limit.expired():
                raise OwnerGone from None
            raise

    def moved(self, key: str) -> None:
        """The lease has a new holder."""
        ends = asyncio.get_running_loop().time() + GRACE_S
        for limit in self._waiting.get(key, ()):
            if limit.when() is None:
                limit.reschedule(ends)
