"""What the storage toolsets need of a technology: values, artifacts, events.

One folder or file per technology beside this one; the same contract tests run against each.
Every key, prefix and topic is any text of the tenant's, and no text leaves the tenant.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = [
    "ARTIFACT_BYTES_MAX",
    "ARTIFACT_KEY_BYTES_MAX",
    "ENCODED_KEY_CHARS_MAX",
    "EVENT_BYTES_MAX",
    "SCAN_MAX",
    "VALUE_BYTES_MAX",
    "Artifact",
    "ArtifactPage",
    "ArtifactStore",
    "ContentType",
    "Event",
    "EventPage",
    "EventStore",
    "Opened",
    "Page",
    "Storage",
    "Stored",
    "full",
    "is_full",
    "told_type",
]

VALUE_BYTES_MAX = 512 * 1024
"""Largest value as JSON; half of what the broker takes in one message."""

ENCODED_KEY_CHARS_MAX = 440
"""Longest key once encoded (``=HH`` per unusual byte): with the bucket it stays in a subject."""

SCAN_MAX = 100_000
"""Keys of one tenant that a listing looks at; above it a listing is refused."""

ARTIFACT_BYTES_MAX = 64 * 1024 * 1024
"""Largest artifact: what one message to a runner can bring."""

ARTIFACT_KEY_BYTES_MAX = 320
"""Longest key of an artifact as UTF-8: escaped as a name it fits every backend."""

EVENT_BYTES_MAX = 256 * 1024
"""Largest event as JSON: EventBridge takes no larger one, and subscribers get it in one message."""


def full(used: int, quota: int, needed: int) -> MeshError:
    """The error for a tenant whose quota has no room; figures in bytes."""
    return MeshError(
        ErrorKind.OVERLOADED,
        f"this tenant's storage is full: {used} of {quota} bytes are used and {needed} more are "
        "needed; delete what is no longer needed, or ask for a larger quota",
        data={"usedBytes": used, "quotaBytes": quota, "neededBytes": needed},
    )


def is_full(error: MeshError) -> bool:
    """Whether it is a quota, and not the load, that stood in the way."""
    return error.kind is ErrorKind.OVERLOADED and "quotaBytes" in error.data


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
    ``too_large`` for a value or key over its limit, ``overloaded`` when the store is full (as
    ``full`` makes it where it is the tenant's quota), ``bus`` or ``deadline`` when it cannot be
    reached.
    """

    async def get(self, tenant: str, key: str) -> Stored | None:
        """The value, or None when there is none or it has expired."""
        ...

    async def set(self, tenant: str, key: str, value: bytes, ttl_s: int = 0) -> int:
        """Store JSON bytes, durably; returns the revision. ``ttl_s`` 0 = kept for ever."""
        ...

    async def compare_and_set(
        self, tenant: str, key: str, value: bytes, expected: int, ttl_s: int = 0
    ) -> int | None:
        """Store only if the key's revision is ``expected`` (0 = there is no value).

        Returns:
            The new revision; None when another revision stands there and nothing was changed.
        """
        ...

    async def delete(self, tenant: str, key: str) -> bool:
        """Delete; whether there was a value."""
        ...

    async def keys(self, tenant: str, prefix: str, limit: int, cursor: str) -> Page:
        """Keys that begin with ``prefix``, after ``cursor``."""
        ...


ContentType = str | Callable[[], str]
"""Media type of a body, or what is asked for it once the body has ended."""


def told_type(content_type: ContentType) -> str:
    """The media type of a body that has ended."""
    return content_type if isinstance(content_type, str) else content_type()


class Artifact(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A stored body, described.

    Attributes:
        key: as it was put.
        size: bytes.
        content_type: media type, as it was put.
        sha256: of the whole body, hex.
        created_ms: Unix ms at which it was complete.
    """

    key: str
    size: int
    content_type: str
    sha256: str
    created_ms: int


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A body that is read part by part.

    Attributes:
        artifact: what it is.
        json_bytes: length of the body as a JSON string, without quotes; -1 = it is no text.
        parts: the bytes in order; raises ``lost`` if they go meanwhile.
    """

    artifact: Artifact
    json_bytes: int
    parts: AsyncGenerator[bytes]


class ArtifactPage(msgspec.Struct, frozen=True, kw_only=True):
    """Artifacts in order of their keys' text; ``cursor`` "" = the last page."""

    artifacts: tuple[Artifact, ...]
    cursor: str = ""


class ArtifactStore(Protocol):
    """Bodies by tenant and key. One is visible whole or not at all; a later put replaces it.

    Every method raises ``MeshError``: ``params`` for a key or cursor that cannot be used,
    ``too_large`` for a body or key over its limit, ``overloaded`` when the tenant's quota or the
    store is full (as ``full`` makes it), ``bus``, ``upstream`` or ``deadline`` when it
    cannot be reached or refuses our credential.
    """

    async def put(
        self, tenant: str, key: str, body: AsyncIterator[bytes], content_type: ContentType
    ) -> Artifact:
        """Store a body; readers of the one before go on reading that."""
        ...

    async def head(self, tenant: str, key: str) -> Artifact | None:
        """What is stored; None when nothing is."""
        ...

    async def read(
        self, tenant: str, key: str, offset: int, length: int
    ) -> tuple[Artifact, bytes] | None:
        """Up to ``length`` bytes from ``offset``; none beyond the end. None: no such artifact."""
        ...

    async def open(self, tenant: str, key: str) -> Opened | None:
        """A body to be given in parts; None: no such artifact, or only ``read`` gives it."""
        ...

    async def list(self, tenant: str, prefix: str, limit: int, cursor: str) -> ArtifactPage:
        """Artifacts whose key begins with ``prefix``, after ``cursor``."""
        ...

    async def delete(self, tenant: str, key: str) -> bool:
        """Delete; whether there was one."""
        ...


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event of a tenant.

    Attributes:
        position: grows with every event of the tenant.
        topic: as it was sent (``tasks:high_priority``).
        data: JSON value.
        source: principal that sent it.
        created_ms: Unix ms at which it was stored.
    """

    position: int
    topic: str
    data: msgspec.Raw
    source: str
    created_ms: int


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in the order of their positions; ``next_position`` is where to read on."""

    events: tuple[Event, ...]
    next_position: int


class EventStore(Protocol):
    """Events by tenant and topic, kept for a while, read from any position. Errors as above."""

    async def send(self, tenant: str, topic: str, data: bytes, source: str) -> int:
        """Store an event, durably; returns its position."""
        ...

    async def read(
        self, tenant: str, pattern: str, position: int, limit: int, wait_s: float = 0.0
    ) -> EventPage:
        """Events from ``position`` on whose topic fits.

        Args:
            tenant: whose.
            pattern: topic, or with ``*`` for any text inside it; "" = all.
            position: first one wanted; 0 = the oldest kept, -1 = only ones not yet there.
            limit: events at most.
            wait_s: when there is none yet, wait for the first this long.
        """
        ...
