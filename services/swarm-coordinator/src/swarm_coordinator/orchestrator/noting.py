"""The memory of a swarm, with a word to those who watch it whenever it has changed."""

from collections.abc import Callable, Sequence

from swarm_coordinator.handlers.ports import Memory, Remembered

__all__ = ["NotingMemory"]


class NotingMemory:
    """``handlers.ports.Memory`` that tells of changes.

    Args:
        memory: the real one.
        changed: called after each change.
    """

    def __init__(self, memory: Memory, changed: Callable[[], None]) -> None:
        self._memory = memory
        self._changed = changed

    async def store(
        self,
        swarm: str,
        namespace: str,
        key: str,
        value: bytes,
        *,
        ttl_s: int | None,
        expected_revision: int | None,
    ) -> Remembered:
        """See ``Memory.store``."""
        done = await self._memory.store(
            swarm, namespace, key, value, ttl_s=ttl_s, expected_revision=expected_revision
        )
        self._changed()
        return done

    async def retrieve(self, swarm: str, namespace: str, key: str) -> Remembered | None:
        """See ``Memory.retrieve``."""
        return await self._memory.retrieve(swarm, namespace, key)

    async def delete(self, swarm: str, namespace: str, key: str) -> bool:
        """See ``Memory.delete``."""
        done = await self._memory.delete(swarm, namespace, key)
        if done:
            self._changed()
        return done

    async def list(
        self, swarm: str, namespace: str, prefix: str, cursor: str, limit: int
    ) -> tuple[list[str], str]:
        """See ``Memory.list``."""
        return await self._memory.list(swarm, namespace, prefix, cursor, limit)

    async def bank(self, swarm: str, limit: int) -> Sequence[tuple[str, str]]:
        """See ``Memory.bank``."""
        return await self._memory.bank(swarm, limit)

    async def forget(self, swarm: str) -> int:
        """See ``Memory.forget``."""
        done = await self._memory.forget(swarm)
        if done:
            self._changed()
        return done
