"""Memory of swarms: a bucket per tenant, three tokens per key, large values beside it.

Each write is a compare-and-set on the revision that was read just before, also where the caller
expects none: only so is it known which large value a write replaces. Expiry is the broker's.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import INLINE_MAX_BYTES
from mcp_proto.subjects import encode_token
from mesh_chassis import provision
from mesh_chassis.bucket import KV, Conflict, Entry
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import now_ms
from mesh_chassis.stream import stream_exists
from swarm_coordinator.core.records import Remembered
from swarm_coordinator.store.memory_keys import (
    KEY_CHARS_MAX,
    NAMESPACE_CHARS_MAX,
    after,
    names_of,
    namespace_of,
    place_of,
)
from swarm_coordinator.store.objects import each, sweep
from swarm_coordinator.store.values import Values

__all__ = [
    "KEY_CHARS_MAX",
    "NAMESPACE_CHARS_MAX",
    "SCAN_MAX",
    "TTL_MAX_S",
    "VALUE_BYTES_MAX",
    "SwarmMemory",
]

T = TypeVar("T")

VALUE_BYTES_MAX = 1024 * 1024
"""A larger value belongs into an artifact, and its URI here."""
TTL_MAX_S = 30 * 86_400
SCAN_MAX = 20_000
"""Keys of one namespace that are looked through for a list."""
WRITE_ATTEMPTS = 16
"""Of a write that expects no revision, among others that want the same key."""
READ_ATTEMPTS = 3
LOOK_S = 2.0
NAME = "m"
"""What names of large values begin with here; the log's are hexadecimal digits."""
VALUE_MARGIN_S = 60
"""A large value outlives its record by this: who has read the record can still read it."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of a key in the bucket: its names in full, and the value or where it is."""

    namespace: str
    key: str
    value: msgspec.Raw = ABSENT
    reference: str = ""
    ttl_s: int = 0


_record = msgspec.json.Decoder(_Record)
_log = logging.getLogger(__name__)


class SwarmMemory:
    """``handlers.ports.Memory`` of one tenant; its storage is made on first use.

    Args:
        bus: connected.
        tenant: whose.
        values: large values of the tenant's swarms.
        replicas: copies on a cluster.
        bytes_max: size of the bucket; -1 = the registry's bound.
    """

    def __init__(
        self, bus: Bus, tenant: str, values: Values, *, replicas: int = 1, bytes_max: int = -1
    ) -> None:
        self._bus = bus
        self._tenant = tenant
        self._values = values
        self._replicas = replicas
        self._bytes_max = bytes_max
        self._kv = KV.bind(bus, _bucket(tenant))
        self._made = False

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
        """Write.

        Args:
            swarm: whose memory.
            namespace: 1..128 characters.
            key: 1..256 characters.
            value: JSON.
            ttl_s: seconds, up to 30 days; None = until deleted.
            expected_revision: 0 = must not exist; None = whatever is there.

        Raises:
            MeshError: ``params`` (names, expiry, or ``data.reason`` ``conflict`` with
                ``data.revision``, 0 = there is none), ``too_large``, ``overloaded``; not executed.
        """
        place = place_of(swarm, namespace, key)
        if len(value) > VALUE_BYTES_MAX:
            raise MeshError(ErrorKind.TOO_LARGE, f"a value has at most {VALUE_BYTES_MAX} bytes")
        if ttl_s is not None and not 1 <= ttl_s <= TTL_MAX_S:
            raise MeshError(ErrorKind.PARAMS, f"ttl must be 1 to {TTL_MAX_S} seconds")
        record = _Record(namespace=namespace, key=key, ttl_s=ttl_s or 0)
        if len(value) <= INLINE_MAX_BYTES:
            record = msgspec.structs.replace(record, value=msgspec.Raw(value))
        else:
            lifetime = ttl_s + VALUE_MARGIN_S if ttl_s else 0
            reference = await self._values.put(swarm, value, ttl_s=lifetime, prefix=NAME)
            record = msgspec.structs.replace(record, reference=reference)
        try:
            revision, replaced = await self._within(
                lambda: self._write(place, record, expected_revision)
            )
        except MeshError as error:
            if error.outcome is Outcome.NOT_EXECUTED:
                await self._drop(swarm, record)
            raise
        await self._drop(swarm, replaced)
        written = now_ms()
        return Remembered(
            value=msgspec.Raw(value),
            revision=revision,
            updated_ms=written,
            expires_ms=written + ttl_s * 1000 if ttl_s else None,
        )

    async def _write(
        self, place: str, record: _Record, expected: int | None
    ) -> tuple[int, _Record | None]:
        """Revision, and the record that was replaced."""
        body = msgspec.json.encode(record)
        entry = await self._kv.get(place)
        for _ in range(WRITE_ATTEMPTS):
            if expected is not None and expected != (entry.revision if entry else 0):
                # Reads may be a moment behind: what is refused for good is read from the leader.
                entry = await self._kv.latest(place)
                if expected != (entry.revision if entry else 0):
                    raise _conflict(entry)
            try:
                if entry is None:
                    return await self._kv.create(place, body, ttl_s=record.ttl_s), None
                revision = await self._kv.update(place, body, entry.revision, ttl_s=record.ttl_s)
            except Conflict:
                entry = await self._kv.latest(place)
            else:
                return revision, _read(entry)
        raise _crowded()

    async def retrieve(self, swarm: str, namespace: str, key: str) -> Remembered | None:
        """Read; None when there is nothing (any more).

        Raises:
            MeshError: ``params`` (names), ``lost`` when a part of a large value is gone.
        """
        place = place_of(swarm, namespace, key)
        entry = await self._within(lambda: self._kv.get(place))
        for attempt in range(1, READ_ATTEMPTS + 1):
            if entry is None:
                return None
            record = _read(entry)
            if record is None:
                break
            try:
                return _remembered(entry, record, await self._value(swarm, record))
            except MeshError as error:
                if error.kind is not ErrorKind.LOST or attempt == READ_ATTEMPTS:
                    raise
                entry = await self._kv.latest(place)  # replaced meanwhile: look again
        raise MeshError(ErrorKind.LOST, "a stored value cannot be read")

    async def _value(self, swarm: str, record: _Record) -> msgspec.Raw:
        if not record.reference:
            return record.value
        return msgspec.Raw(await self._values.get(swarm, record.reference))

    async def delete(self, swarm: str, namespace: str, key: str) -> bool:
        """Remove; whether it was there. Of several who delete at once one is told so.

        Raises:
            MeshError: ``params`` (names), ``overloaded`` among too many writers.
        """
        place = place_of(swarm, namespace, key)
        gone = await self._within(lambda: self._remove(place))
        if gone is None:
            return False
        await self._drop(swarm, _read(gone))
        return True

    async def _remove(self, place: str) -> Entry | None:
        entry = await self._kv.get(place)
        if entry is None:
            entry = await self._kv.latest(place)
        for _ in range(WRITE_ATTEMPTS):
            if entry is None:
                return None
            try:
                await self._kv.delete(place, revision=entry.revision)
            except Conflict:
                entry = await self._kv.latest(place)
            else:
                return entry
        raise _crowded()

    # Lists

    async def list(
        self, swarm: str, namespace: str, prefix: str, cursor: str, limit: int
    ) -> tuple[list[str], str]:
        """Keys of a namespace in order, and the cursor of the next page ("" = none).

        Raises:
            MeshError: ``params`` (names, cursor), ``overloaded`` beyond 20,000 keys.
        """
        begin = after(cursor)
        space = f"{encode_token(swarm)}.{namespace_of(namespace)}."
        places = await self._within(lambda: self._kv.keys(space))
        if len(places) > SCAN_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, f"the namespace has more than {SCAN_MAX} keys to list"
            )
        keys = sorted(
            key for _, key in await self._named(places) if key.startswith(prefix) and key > begin
        )
        page = keys[:limit]
        more = len(keys) > limit
        return page, encode_token(page[-1]) if more and page else ""

    async def bank(self, swarm: str, limit: int) -> Sequence[tuple[str, str]]:
        """(namespace, key) of what a swarm remembers, in order, at most ``limit``.

        Raises:
            MeshError: ``overloaded`` beyond 20,000 keys.
        """
        places = await self._within(lambda: self._kv.keys(f"{encode_token(swarm)}."))
        if len(places) > SCAN_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, f"the swarm has more than {SCAN_MAX} keys to list"
            )
        return sorted(await self._named(places))[:limit]

    async def _named(self, places: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Names of stored keys; those that did not fit into a token are in the record."""
        found = [names_of(place) for place in places]
        unknown = [place for place, names in zip(places, found, strict=True) if names is None]
        records = dict(zip(unknown, await each(self._kv.get, unknown), strict=True))
        named: list[tuple[str, str]] = []
        for place, names in zip(places, found, strict=True):
            entry = records.get(place)
            record = _read(entry) if entry is not None else None
            if names is not None:
                named.append(names)
            elif record is not None:  # else it has gone meanwhile
                named.append((record.namespace, record.key))
        return named

    async def forget(self, swarm: str) -> int:
        """Remove everything of a swarm, also large values that nothing refers to; how many keys.

        Raises:
            MeshError: not everything could be removed; a repeat goes on.
        """
        if not await stream_exists(self._bus, self._kv.bucket.stream, timeout_s=LOOK_S):
            return 0
        places = await self._kv.keys(f"{encode_token(swarm)}.")
        await each(self._kv.delete, places)
        await sweep(self._bus, self._tenant, swarm, NAME)
        return len(places)

    # Storage

    async def _within(self, use: Callable[[], Awaitable[T]]) -> T:
        if self._made:
            try:
                return await use()
            except MeshError as error:
                if error.kind is not ErrorKind.NO_RUNNER:
                    raise
        # First use here, or a new broker without it.
        await provision.ensure(
            self._bus,
            "memory",
            self._tenant,
            bytes_max=self._bytes_max,
            replicas=self._replicas,
        )
        self._made = True
        return await use()

    async def _drop(self, swarm: str, record: _Record | None) -> None:
        if record is not None and record.reference:
            try:
                await self._values.drop(swarm, record.reference)
            except MeshError as error:  # the sweep takes it with the swarm
                _log.info("a replaced value stays for now: %s", error.message)


def _bucket(tenant: str) -> Bucket:
    try:
        return buckets.swarm_memory(tenant)
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None


def _read(entry: Entry | None) -> _Record | None:
    """The record of a key; None for one that no coordinator wrote."""
    if entry is None:
        return None
    try:
        return _record.decode(entry.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _remembered(entry: Entry, record: _Record, value: msgspec.Raw) -> Remembered:
    return Remembered(
        value=value,
        revision=entry.revision,
        updated_ms=entry.created_ms,
        expires_ms=entry.created_ms + record.ttl_s * 1000 if record.ttl_s else None,
    )


def _conflict(entry: Entry | None) -> MeshError:
    revision = entry.revision if entry is not None else 0
    there = f"its revision is {revision}" if revision else "it does not exist"
    return MeshError(
        ErrorKind.PARAMS,
        f"the key is not at the expected revision: {there}",
        data={"reason": "conflict", "revision": revision},
    )


def _crowded() -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        "too many writers on one key",
        retry_after_s=0.5,
        outcome=Outcome.NOT_EXECUTED,
    )
