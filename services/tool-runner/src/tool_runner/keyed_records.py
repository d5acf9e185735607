"""Records of ``mesh_idempotency``: bounded per tenant and in size, large answers in parts.

What cannot be kept is said to repeats, never forgotten: a call that ran may not run again.
"""

import logging
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mesh_chassis.bucket import KV, Conflict, Entry
from mesh_chassis.bus.connection import Bus
from mesh_chassis.stored_bodies import read_parts, write_parts
from mesh_chassis.watch import Watch
from tool_runner.config import IdempotencyConfig
from tool_runner.core import idempotency as rules
from tool_runner.core.idempotency import Kept, State
from tool_runner.tasks.census import Census
from tool_runner.tasks.store import HEADS, OPEN_S

__all__ = ["INLINE_BYTES", "KeyedRecords", "with_error"]

INLINE_BYTES = 256 * 1024
"""An answer up to this size stands in the record itself."""

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class KeyedRecords:
    """The bucket. Make it with ``open``.

    Args:
        kv: the bucket.
        bus: connection.
        config: bounds.
    """

    def __init__(self, kv: KV, bus: Bus, config: IdempotencyConfig) -> None:
        self._kv = kv
        self._bus = bus
        self._window_s = config.window_s
        self._most = config.per_tenant
        self._census = Census()
        self.watch = Watch(bus, kv.bucket, HEADS, on_entry=self._on_entry, headers_only=True)

    @classmethod
    async def open(cls, bus: Bus, config: IdempotencyConfig) -> "KeyedRecords":
        """Count what is in the bucket.

        Raises:
            MeshError: the registry has not made it yet, or the broker cannot be asked.
        """
        made = cls(await KV.open(bus, buckets.IDEMPOTENCY, timeout_s=OPEN_S), bus, config)
        await made.watch.start()
        await made.watch.ready
        return made

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._kv.bucket.name

    async def close(self) -> None:
        """Count no more."""
        await self.watch.stop()

    def _on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        if value is None:
            self._census.left(key)
        else:
            self._census.entered(key)

    async def entry(self, name: str) -> Entry | None:
        """A record; None = there is none."""
        return await self._kv.get(name) or await self._kv.latest(name)

    async def create(self, name: str, value: bytes) -> int:
        """Write a new record within the tenant's bound.

        Raises:
            Conflict: there is one.
            MeshError: ``overloaded``.
        """
        tenant = name.partition(".")[0]
        if self._census.count(tenant) >= self._most:
            if await self.entry(name) is not None:
                raise Conflict(0)
            raise rules.full(self._most)
        near = self._census.near(tenant, self._most)
        waiting = self._census.expect(name) if near else None
        try:
            revision = await self._kv.create(name, value, ttl_s=self._window_s)
        except (Conflict, MeshError) as error:
            if waiting is not None:
                self._census.forget(name, waiting)
            if isinstance(error, MeshError) and error.kind is ErrorKind.OVERLOADED:
                raise _no_space() from error
            raise
        if waiting is not None and await self._census.place(name, waiting) > self._most:
            await self._kv.delete(name, revision=revision)
            raise rules.full(self._most)
        return revision

    async def keep(self, name: str, revision: int, bare: Kept, answer: bytes) -> None:
        """Write an answer: a final one, or the question that is open now."""
        parts = 0
        if len(answer) > INLINE_BYTES:
            try:
                parts = await write_parts(self._kv, name, answer, ttl_s=self._window_s)
            except MeshError as error:
                _log.error("an answer with an idempotency key was not kept: %s", error.message)
                await self.write(name, revision, with_error(bare, _unkept(Outcome.EXECUTED)))
                return
        replace = msgspec.structs.replace
        kept = replace(bare, result=ABSENT if parts else msgspec.Raw(answer), parts=parts)
        question = rules.question_of(answer)
        if question is not None:
            kept = replace(kept, state=State.OPEN, round=question.round)
            if question.parked:
                kept = replace(kept, owner=self._bus.instance, boot=self._bus.boot)
        await self.write(name, revision, kept)

    async def write(self, name: str, revision: int, kept: Kept | None) -> None:
        """A record that cannot be written leaves repeats waiting for this runner's end."""
        try:
            if kept is None:
                await self._kv.delete(name, revision=revision)
                return
            try:
                await self._kv.update(name, _encode(kept), revision, ttl_s=self._window_s)
            except MeshError as error:
                if error.kind not in {ErrorKind.OVERLOADED, ErrorKind.TOO_LARGE}:
                    raise
                # The bucket is full. What happened is known no less, and this is small enough.
                _log.error("an answer with an idempotency key was not kept: %s", error.message)
                outcome = rules.outcome_of(kept.error) if kept.error else Outcome.EXECUTED
                small = with_error(Kept(state=State.DONE, digest=kept.digest), _unkept(outcome))
                await self._kv.update(name, _encode(small), revision, ttl_s=self._window_s)
        except (Conflict, MeshError) as error:
            _log.error("the answer of a call with an idempotency key was not kept: %s", error)

    async def update(self, name: str, value: bytes, revision: int) -> int:
        """Write over ``revision``.

        Raises:
            Conflict: it is another.
            MeshError: it could not be written.
        """
        return await self._kv.update(name, value, revision, ttl_s=self._window_s)

    async def latest(self, name: str) -> Entry | None:
        """A record from the leader."""
        return await self._kv.latest(name)

    async def free(self, name: str) -> None:
        """Forget a record."""
        await self._kv.purge(name)

    async def follow(self, name: str, on_entry: Callable[[str, bytes | None, int], None]) -> Watch:
        """Watch one record; the caller stops it."""
        return await self._kv.watch(name, on_entry=on_entry)

    async def answer(self, name: str, kept: Kept) -> bytes | ErrorObject:
        """What a record says: an answer, an error, or the open question.

        Raises:
            MeshError: ``lost`` when a part of it is gone.
        """
        if kept.error is not None:
            return kept.error
        if kept.parts:
            return await read_parts(self._kv, name, kept.parts)
        return bytes(kept.result)


def with_error(bare: Kept, error: ErrorObject) -> Kept:
    """A final record with an error; one that is too large is told in short."""
    if len(_encode(error)) > INLINE_BYTES:
        error = _unkept(rules.outcome_of(error))
    return msgspec.structs.replace(bare, error=error)


def _unkept(outcome: Outcome) -> ErrorObject:
    """What a repeat is told where the first answer could not be stored."""
    return MeshError(
        ErrorKind.TOO_LARGE,
        "the first call with this idempotency key has ended; its answer could not be kept",
        outcome=outcome,
    ).to_object()


def _no_space() -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        "the store of idempotency keys is full",
        data={"bucket": buckets.IDEMPOTENCY.name},
        retry_after_s=5.0,
    )
