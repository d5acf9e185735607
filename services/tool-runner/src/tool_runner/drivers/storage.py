"""What the ``kv`` toolset needs of a key-value store; one file per technology beside this one."""

from typing import Protocol

import msgspec

__all__ = ["ENCODED_KEY_CHARS_MAX", "SCAN_MAX", "VALUE_BYTES_MAX", "Page", "Storage", "Stored"]

VALUE_BYTES_MAX = 512 * 1024
"""Largest value as JSON; half of what the broker takes in one message."""

ENCODED_KEY_CHARS_MAX = 440
"""Longest key once encoded (``=HH`` per unusual byte): with the bucket it stays in a subject."""

SCAN_MAX = 100_000
"""Keys of one tenant that a listing looks at; above it a listing is refused."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A value as it was set. ``revision`` grows with every write of the tenant's bucket."""

    value: msgspec.Raw
    revision: int
    created_ms: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Keys in order of their text; ``cursor`` "" = the last page."""

    keys: tuple[str, ...]
    cursor: str = ""


class Storage(Protocol):
    """Values by tenant and key. A key is any non-empty text and never leaves its tenant.

    Every method raises ``MeshError``: ``params`` for a key or cursor that cannot be used,
    ``too_large`` for a value or key over its limit, ``overloaded`` when the store is full,
    ``bus`` or ``deadline`` when it cannot be reached.
    """

    async def get(self, tenant: str, key: str) -> Stored | None:
        """The value, or None when there is none or it has expired."""
        ...

    async def set(self, tenant: str, key: str, value: bytes, ttl_s: int = 0) -> int:
        """Store JSON bytes, durably; returns the revision. ``ttl_s`` 0 = kept for ever."""
        ...

    async def delete(self, tenant: str, key: str) -> bool:
        """Delete; whether there was a value."""
        ...

    async def keys(self, tenant: str, prefix: str, limit: int, cursor: str) -> Page:
        """Keys that begin with ``prefix``, after ``cursor``."""
        ...
