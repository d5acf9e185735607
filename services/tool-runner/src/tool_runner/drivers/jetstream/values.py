"""Storage of the ``kv`` toolset on JetStream: a bucket per tenant, a token per key.

The bucket is made on a tenant's first use. A key is encoded into exactly one token, so whatever
text it is (``..``, ``*``, ``>``, a dot, another alphabet), it names one entry of this tenant's
bucket and nothing else.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mcp_proto.buckets import tenant_kv
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import decode_token, encode_token
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from tool_runner.drivers.jetstream.streams import TENANTS_MAX, TenantStreams
from tool_runner.drivers.jetstream.usage import OVERHEAD_BYTES, Usage
from tool_runner.drivers.storage import ENCODED_KEY_CHARS_MAX, SCAN_MAX, Page, Stored

__all__ = ["JetStreamValues"]

T = TypeVar("T")


class JetStreamValues:
    """``Storage`` over one connection.

    Args:
        bus: connected.
        streams: makes the buckets.
        usage: quotas.
    """

    def __init__(self, bus: Bus, streams: TenantStreams, usage: Usage) -> None:
        self._bus = bus
        self._streams = streams
        self._usage = usage
        self._buckets: OrderedDict[str, KV] = OrderedDict()

    async def get(self, tenant: str, key: str) -> Stored | None:
        """See ``Storage``."""
        token = _token(key)
        entry = await self._with_bucket(tenant, lambda kv: kv.get(token))
        if entry is None:
            return None
        return Stored(
            value=msgspec.Raw(entry.value), revision=entry.revision, created_ms=entry.created_ms
        )

    async def set(self, tenant: str, key: str, value: bytes, ttl_s: int = 0) -> int:
        """See ``Storage``."""
        token = _token(key)
        return await self._write(tenant, token, value, lambda kv: kv.put(token, value, ttl_s=ttl_s))

    async def compare_and_set(
        self, tenant: str, key: str, value: bytes, expected: int, ttl_s: int = 0
    ) -> int | None:
        """See ``Storage``."""
        token = _token(key)

        async def replace(kv: KV) -> int | None:
            try:
                if expected == 0:
                    return await kv.create(token, value, ttl_s=ttl_s)
                return await kv.update(token, value, expected, ttl_s=ttl_s)
            except Conflict:
                return None

        return await self._write(tenant, token, value, replace)

    async def delete(self, tenant: str, key: str) -> bool:
        """See ``Storage``."""
        token = _token(key)

        async def remove(kv: KV) -> bool:
            existed = await kv.get(token) is not None
            if existed:
                await kv.delete(token)
            return existed

        return await self._with_bucket(tenant, remove)

    async def keys(self, tenant: str, prefix: str, limit: int, cursor: str) -> Page:
        """See ``Storage``."""
        after = _decoded(cursor, "cursor") if cursor else ""
        tokens = await self._with_bucket(tenant, lambda kv: kv.keys())
        if len(tokens) > SCAN_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, f"the tenant has more than {SCAN_MAX} keys to list"
            )
        texts = sorted(
            text
            for text in map(_readable, tokens)
            if text is not None and text.startswith(prefix) and text > after
        )
        more = len(texts) > limit
        return Page(
            keys=tuple(texts[:limit]), cursor=encode_token(texts[limit - 1]) if more else ""
        )

    async def _write(
        self, tenant: str, token: str, value: bytes, write: Callable[[KV], Awaitable[T]]
    ) -> T:
        size = len(value) + len(token) + OVERHEAD_BYTES
        usage = self._usage
        await usage.admit(tenant, size)
        try:
            return await self._with_bucket(tenant, write)
        finally:
            usage.done(tenant, size)

    async def _with_bucket(self, tenant: str, use: Callable[[KV], Awaitable[T]]) -> T:
        kv = self._buckets.get(tenant)
        if kv is None:
            kv = self._bind(tenant)
        found = kv
        return await self._streams.within("kv", tenant, lambda: use(found))

    def _bind(self, tenant: str) -> KV:
        try:
            kv = KV.bind(self._bus, tenant_kv(tenant))
        except ValueError:
            raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None
        self._buckets[tenant] = kv
        if len(self._buckets) > TENANTS_MAX:
            self._buckets.popitem(last=False)
        return kv


def _token(key: str) -> str:
    try:
        token = encode_token(key)
    except (ValueError, UnicodeEncodeError):
        raise MeshError(ErrorKind.PARAMS, "the key must be non-empty Unicode text") from None
    if len(token) > ENCODED_KEY_CHARS_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the key has {len(token)} characters once encoded; the limit is "
            f"{ENCODED_KEY_CHARS_MAX}",
        )
    return token


def _decoded(token: str, what: str) -> str:
    try:
        return decode_token(token)
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, f"unknown {what}") from None


def _readable(token: str) -> str | None:
    """Text of a stored key; None for one that no runner wrote."""
    try:
        return decode_token(token)
    except ValueError:
        return None
