"""A bucket as a dictionary of typed values that a watch keeps current.

For decisions that may not wait for the broker: reads are plain memory. A value that cannot be
read counts as gone, because keeping the last good one would keep a right alive that somebody
meant to take away.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from mesh_chassis.bucket import KV
from mesh_chassis.watch import Watch

__all__ = ["SEEN_S", "BucketView"]

V = TypeVar("V")

SEEN_S = 2.0
"""How long a write of one's own may need to come back through the watch; usually under 1 ms."""

_log = logging.getLogger(__name__)


class BucketView(Generic[V]):
    """Typed copy of a bucket.

    Args:
        kv: the bucket.
        read: key and bytes → value, or None for keys of another kind; may raise
            ``msgspec.DecodeError`` or ``ValueError``.
        on_change: called after each change with key and value (None = gone); must not block.
        on_reset: called before the bucket is read again after a gap.
        key_filter: which keys, as in ``KV.watch``.
    """

    def __init__(
        self,
        kv: KV,
        read: Callable[[str, bytes], V | None],
        *,
        on_change: Callable[[str, V | None], None] | None = None,
        on_reset: Callable[[], None] | None = None,
        key_filter: str = ">",
    ) -> None:
        self._kv = kv
        self._read = read
        self._on_change = on_change
        self._on_reset = on_reset
        self._filter = key_filter
        self._values: dict[str, V] = {}
        self._revision = 0
        self._moved = asyncio.Event()
        self._watch: Watch | None = None
        self.unreadable = 0
        """Values met so far that could not be read."""

    async def start(self) -> None:
        """Load everything.

        Raises:
            MeshError: the bucket could not be read in time.
        """
        self._watch = await self._kv.watch(self._filter, on_entry=self._entry, on_reset=self._reset)
        await self._watch.ready

    async def stop(self) -> None:
        """Stop watching; the values stay as they are."""
        if self._watch is not None:
            await self._watch.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy was proven current in the last few seconds."""
        return self._watch is not None and self._watch.fresh

    @property
    def age_s(self) -> float:
        """Seconds since the last such proof; infinite before the first."""
        return self._watch.age_s if self._watch is not None else float("inf")

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> V | None:
        """The value of a key."""
        return self._values.get(key)

    def values(self) -> list[V]:
        """Every value, in no order."""
        return list(self._values.values())

    def items(self) -> Iterator[tuple[str, V]]:
        """Keys and values of this moment."""
        return iter(tuple(self._values.items()))

    async def seen(self, revision: int) -> bool:
        """Wait until the copy holds every write up to ``revision``; False when it takes long."""
        try:
            async with asyncio.timeout(SEEN_S):
                while self._revision < revision:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _entry(self, key: str, value: bytes | None, revision: int) -> None:
        read = self._decoded(key, value) if value is not None else None
        if read is not None:
            self._values[key] = read
            self._tell(key, read)
        elif self._values.pop(key, None) is not None:
            self._tell(key, None)
        self._revision = max(self._revision, revision)
        self._moved.set()

    def _decoded(self, key: str, value: bytes) -> V | None:
        try:
            return self._read(key, value)
        except (msgspec.DecodeError, ValueError) as error:
            self.unreadable += 1
            _log.error(
                "key %s of %s cannot be read: %s", key, self._kv.bucket.name, type(error).__name__
            )
            return None

    def _tell(self, key: str, value: V | None) -> None:
        if self._on_change is not None:
            self._on_change(key, value)

    def _reset(self) -> None:
        # A new stream begins at 1 again; what vanished is reported by the watch.
        self._revision = 0
        if self._on_reset is not None:
            self._on_reset()
