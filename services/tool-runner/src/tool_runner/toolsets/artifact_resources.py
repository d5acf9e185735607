"""Artifacts as MCP resources: ``mesh://artifacts/<key>``, whole or in ranges."""

import asyncio
import base64
from collections.abc import AsyncGenerator

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.endpoint import LargeBody
from tool_runner.core.json_text import base64_length, in_base64, in_json
from tool_runner.core.media_types import is_text
from tool_runner.core.store_uris import ARTIFACTS_ROOT, is_canonical, uri_of, wanted_of
from tool_runner.drivers.storage import Artifact, ArtifactStore, Opened
from tool_runner.toolsets.toolset import Watched

__all__ = ["ArtifactResources"]

ANSWER_ROOM_BYTES = 4 * 1024
"""Of an answer: everything but the body."""
LARGE_BYTES = 256 * 1024
PIECE_BYTES = 4 * 1024 * 1024
"""Length of a range that names none."""

_TEMPLATE = {
    "uriTemplate": ARTIFACTS_ROOT + "{+key}{?offset,length}",
    "name": "artifact",
    "title": "Artifact",
    "description": "A stored file of this tenant, by its percent-encoded key. With offset and "
    "length a range of its bytes, as base64. artifacts_list names those that are there; "
    "subscribe to one, or to everything below a prefix that ends in '/'.",
}


class ArtifactResources:
    """``Resources`` over a store."""

    permission = "GetArtifacts"
    templates = (msgspec.Raw(msgspec.json.encode(_TEMPLATE)),)

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def read(self, tenant: str, uri: str, room: int) -> bytes | LargeBody:
        """See ``Resources``."""
        wanted = wanted_of(ARTIFACTS_ROOT, uri, "offset", "length")
        if wanted is None or not wanted.name:
            raise _unknown(uri)
        # Base64 makes four bytes of three; text may be escaped, and is measured.
        most = (room - ANSWER_ROOM_BYTES) // 4 * 3
        members: dict[str, object]
        ranged = bool(wanted.numbers)
        opened = None if ranged else await self._store.open(tenant, wanted.name)
        if opened is not None:
            members = {"uri": uri, "mimeType": opened.artifact.content_type}
            parts = _in_parts(opened, members, room, most)
            if parts is not None:
                return parts
        offset = wanted.numbers.get("offset", 0)
        length = min(wanted.numbers.get("length", PIECE_BYTES), most) if ranged else room
        found = await self._store.read(tenant, wanted.name, offset, length)
        if found is None:
            raise _unknown(uri)
        artifact, body = found
        members = {"uri": uri, "mimeType": artifact.content_type}
        if not ranged:
            if len(body) > LARGE_BYTES:
                await asyncio.sleep(0)  # small calls go between two passes over a large body
            return _whole(artifact, members, body, room, most)
        if offset >= artifact.size and offset:
            raise MeshError(
                ErrorKind.PARAMS,
                f"the artifact ends at {artifact.size}",
                data={"uri": uri, "size": artifact.size},
            )
        about: dict[str, object] = {"offset": offset, "length": len(body), "size": artifact.size}
        end = offset + len(body)
        if end < artifact.size:
            about["next"] = f"{uri_of(ARTIFACTS_ROOT, artifact.key)}?offset={end}"
        members["blob"] = base64.b64encode(body).decode()
        members["_meta"] = {"mesh/range": about, "mesh/sha256": artifact.sha256}
        return msgspec.json.encode(members)

    async def watch(self, tenant: str, uri: str, subscriber: str) -> Watched:
        """See ``Resources``; every runner tells what it stores, so nothing is kept here."""
        del tenant, subscriber
        if is_canonical(ARTIFACTS_ROOT, uri):
            return Watched()
        wanted = wanted_of(ARTIFACTS_ROOT, uri)
        if wanted is None:
            return Watched("is no URI of an artifact")
        right = uri_of(ARTIFACTS_ROOT, wanted.name)
        return Watched(f"subscribe to {right}, which is the same artifact")

    def unwatch(self, tenant: str, uri: str, subscriber: str) -> None:
        """See ``Resources``."""


def _in_parts(opened: Opened, members: dict[str, object], room: int, most: int) -> LargeBody | None:
    """A large one whose size in the answer is known beforehand; None = read it whole."""
    artifact, size = opened.artifact, opened.json_bytes
    if artifact.size <= LARGE_BYTES:
        return None
    if is_text(artifact.content_type):
        if size < 0:
            return None  # not measured, or no text
        if size <= room - ANSWER_ROOM_BYTES:
            return _string(members, "text", size, in_json(opened.parts))
    if artifact.size <= most:
        size = base64_length(artifact.size)
        return _string(members, "blob", size, in_base64(opened.parts))
    return None


def _string(
    members: dict[str, object], name: str, size: int, parts: AsyncGenerator[bytes]
) -> LargeBody:
    before, _, after = msgspec.json.encode({**members, name: "\0"}).rpartition(b"\\u0000")
    return LargeBody(size=size, parts=parts).within(before, after)


def _whole(
    artifact: Artifact, members: dict[str, object], body: bytes, room: int, most: int
) -> bytes:
    if len(body) == artifact.size:
        if is_text(artifact.content_type):
            encoded = _as_text(members, body)
            if encoded is not None and len(encoded) <= room - ANSWER_ROOM_BYTES:
                return encoded
        if len(body) <= most:
            return msgspec.json.encode({**members, "blob": base64.b64encode(body).decode()})
    raise MeshError(
        ErrorKind.TOO_LARGE,
        f"the artifact has {artifact.size} bytes: read it in ranges of at most {most} with "
        f"?offset=0&length={min(most, PIECE_BYTES)}",
        data={"uri": members["uri"], "size": artifact.size, "maxLength": most},
    )


def _as_text(members: dict[str, object], body: bytes) -> bytes | None:
    try:
        return msgspec.json.encode({**members, "text": body.decode()})
    except UnicodeDecodeError:
        return None


def _unknown(uri: str) -> MeshError:
    return MeshError(ErrorKind.NOT_FOUND, "unknown resource", data={"uri": uri[:2_048]})
