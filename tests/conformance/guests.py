"""Clients and servers of ``test_requirements``: who listens, who waits, what is listed where."""

import uuid
from typing import Any

from tests.conformance.peers import Peer, connect
from tests.conformance.room import Room, Served

from mesh_chassis.testing.conditions import eventually

__all__ = [
    "FIXTURES",
    "RIGHT",
    "Guests",
    "label",
    "names_of",
    "seen",
    "updated",
    "watched_uris",
]

FIXTURES = (
    Served(name="old", era="legacy", transport="stdio"),
    Served(name="new", era="modern", transport="stdio"),
    Served(name="oldhttp", era="legacy", transport="http"),
    Served(name="newhttp", era="modern", transport="http"),
    Served(name="paged", era="", transport="stdio", module="broken", arguments=("--how", "paged")),
    Served(
        name="repeating", era="", transport="stdio", module="broken",
        arguments=("--how", "repeating"),
    ),
    Served(
        name="endless", era="", transport="stdio", module="broken", arguments=("--how", "endless")
    ),
    Served(
        name="hanging", era="", transport="stdio", module="broken", arguments=("--how", "hanging")
    ),
    Served(name="dying", era="", transport="stdio", module="broken", arguments=("--how", "dying")),
)  # fmt: skip
RIGHT = ("old", "new", "oldhttp", "newhttp", "paged")
STDIO_KEPT = 5
WATCHED = "test://watched-resource"


class Guests:
    """Connected peers, kept for the next test: a stdio edge is a process of its own."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._kept: dict[tuple[str, str, str], Peer] = {}

    async def __call__(self, edge: str, revision: str, who: str = "a") -> Any:
        """A peer; another one per ``who``."""
        kept = self._kept.pop((edge, revision, who), None)
        if kept is None:
            await self._make_room(edge)
            kept = await connect(self.room.mesh, edge, revision, capabilities={})
        self._kept[edge, revision, who] = kept
        kept.inbox.clear()
        return kept

    async def _make_room(self, edge: str) -> None:
        """Only so many stdio edges can run beside one mesh; the one unused for longest goes."""
        kept = [place for place in self._kept if place[0] == edge]
        if edge == "stdio" and len(kept) >= STDIO_KEPT:
            await self._kept.pop(kept[0]).close()

    async def fresh(self, edge: str, revision: str, **options: Any) -> Any:
        """A peer for one test; close it."""
        return await connect(self.room.mesh, edge, revision, **options)

    async def leave(self) -> None:
        """Close all."""
        for peer in self._kept.values():
            await peer.close()


def label() -> str:
    return uuid.uuid4().hex


async def seen(peer: Peer, server: str, name: str, *wanted: str, within_s: float = 10.0) -> str:
    """Wait until the server says of a ``test_wait`` what is wanted."""
    now = ""

    async def there() -> bool:
        nonlocal now
        now = await peer.text(f"{server}__test_seen", {"label": name})
        return now in wanted

    await eventually(there, timeout_s=within_s)
    return now


def updated(uri: str) -> Any:
    return lambda one: (
        one.get("method") == "notifications/resources/updated" and one["params"]["uri"] == uri
    )


async def watched_uris(peer: Peer) -> dict[str, str]:
    """The URI of each server's watched resource, as it is listed."""
    found: dict[str, str] = {}
    for resource in await peer.everything("resources/list", "resources"):
        uri = resource["uri"]
        if uri == WATCHED:
            found["new"] = uri  # of equal URIs the first server by name keeps its own
        elif "watched-resource" in uri:
            found[uri.removeprefix("mesh://").partition("/")[0]] = uri
    return found


async def names_of(peer: Peer, key: str) -> set[str]:
    return {one["name"] for one in await peer.everything(f"{key}/list", key)}
