"""What the checks of the storage drivers stand on, and the texts they try as names."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.drivers.storage import ArtifactStore, EventStore, Storage

__all__ = [
    "KB",
    "MB",
    "ODD_TEXTS",
    "Bench",
    "Check",
    "Stores",
    "fresh_tenant",
    "pieces",
    "random_body",
    "refused",
    "refused_for_quota",
    "title",
]

ODD_TEXTS = (
    "..",
    "../other/x",
    "a..b",
    ".",
    "/",
    "//a",
    "a/",
    "%2e%2e%2f",
    "%2E",
    "=2E",
    "*",
    ">",
    "a.*",
    "a.>",
    "$O.x",
    "$KV.mesh_t_other.a",
    "_",
    "a b",
    " ",
    "\n",
    "a\tb",
    "\\",
    "a?x=1&y#z",
    "ключ",
    "日本語/ファイル",
    "😀",
    "é",
    "e\u0301",
    "A",
    "a",
    "x" * 256,
    "." * 100,
)
"""Keys and topics that name one thing each, and nothing of anybody else's."""

KB = 1024
MB = 1024 * 1024


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """The three stores of one backend, as a runner has them."""

    values: Storage
    artifacts: ArtifactStore
    events: EventStore


class Bench(Protocol):
    """What a backend gives to the checks."""

    async def stores(self, bytes_per_tenant: int = 1024 * MB) -> Stores:
        """Stores as another runner would open them, with this quota; closed by the bench."""
        ...

    async def leftovers(self, tenant: str) -> int:
        """Stored parts that belong to no artifact that is there, once the driver has swept."""
        ...


Check = Callable[[Bench], Awaitable[None]]


def title(check: Check) -> str:
    """Name of a check as a test id."""
    return check.__name__


def fresh_tenant() -> str:
    """A tenant nobody has used."""
    return f"t-{secrets.token_hex(6)}"


async def pieces(body: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """A body in pieces that fit no chunk size."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


def random_body(size: int) -> bytes:
    return secrets.token_bytes(size)


async def refused(kind: ErrorKind, doing: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await doing
    assert caught.value.kind is kind, caught.value
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    return caught.value


async def refused_for_quota(doing: Awaitable[object], quota: int) -> None:
    error = await refused(ErrorKind.OVERLOADED, doing)
    assert error.data["quotaBytes"] == quota
    assert 0 <= error.data["usedBytes"] <= quota
    assert str(quota) in error.message
    assert str(error.data["usedBytes"]) in error.message
