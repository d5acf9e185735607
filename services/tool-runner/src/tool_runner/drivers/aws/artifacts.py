"""Artifacts in one S3 bucket: ``{tenant}/{key, encoded}``, readable with every S3 tool.

The digest of a body is part of its description and is known only at its end. A body of one piece
is sent with it. A larger one is uploaded in parts to a place that nobody lists
(``.uploads/…``) and copied inside S3 to its own with its description: it appears whole, with its
digest, in one step, and an upload that broke off was never there.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Protocol, cast

from aiobotocore.client import AioBaseClient

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_tenant_id
from mcp_proto.subjects import decode_token, encode_token
from mesh_chassis.clock import now_ms
from tool_runner.drivers.aws.faults import Effect, RefusedError
from tool_runner.drivers.aws.names import decoded, encoded
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.aws.uploads import Uploads, first_of, in_parts
from tool_runner.drivers.aws.usage import Usage
from tool_runner.drivers.storage import (
    ARTIFACT_BYTES_MAX,
    ARTIFACT_KEY_BYTES_MAX,
    Artifact,
    ArtifactPage,
    ContentType,
    Opened,
    told_type,
)

__all__ = ["S3Artifacts"]

SINGLE_BYTES = 16 * 1024 * 1024
"""Largest body sent in one request; it is held in memory."""
PART_BYTES = 8 * 1024 * 1024
CONTENT_TYPE_CHARS_MAX = 255
HEADS_IN_FLIGHT = 16
LIST_REQUESTS_MAX = 32
OFF_LOOP_BYTES = 1024 * 1024

_SHA256, _CREATED, _TYPE = "mesh-sha256", "mesh-created-ms", "mesh-content-type"
_ABSENT = ("404", "NoSuchKey", "NotFound")


class Digest(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...


Named = tuple[tuple[str, str], ...]
"""Keys with the names of their objects."""


class S3Artifacts:
    """``ArtifactStore`` in a bucket.

    Args:
        aws: the connection.
        bucket: its name.
        usage: of the tenants, counted here.
        single_bytes: largest body sent in one request.
        part_bytes: of a larger one; S3 wants at least 5 MiB.
    """

    def __init__(
        self,
        aws: Aws,
        bucket: str,
        usage: Usage,
        *,
        single_bytes: int = SINGLE_BYTES,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._aws = aws
        self._bucket = bucket
        self._usage = usage
        self._uploads = Uploads(aws, bucket)
        self._single_bytes = single_bytes
        self._part_bytes = part_bytes

    async def put(
        self, tenant: str, key: str, body: AsyncIterator[bytes], content_type: ContentType
    ) -> Artifact:
        """See ``ArtifactStore``."""
        name = _name(tenant, key)
        if isinstance(content_type, str):
            _check_type(content_type)  # before anything is sent
        freed = await self._freed(tenant, key, name)
        first = bytearray()
        async for piece in body:
            first += piece
            if len(first) > self._single_bytes:
                return await self._put_parts(tenant, key, content_type, first, body, freed)
        await self._require(tenant, len(first), freed)
        digest = hashlib.sha256()
        await _feed(digest, bytes(first))
        artifact = _made(key, len(first), content_type, digest.hexdigest())
        await self._call(
            "put_object", Effect.SAFE, Key=name, Body=bytes(first), **_description(artifact)
        )
        self._usage.note(tenant, artifact.size - freed)
        return artifact

    async def head(self, tenant: str, key: str) -> Artifact | None:
        """See ``ArtifactStore``."""
        return await self._head(key, _name(tenant, key))

    async def read(
        self, tenant: str, key: str, offset: int, length: int
    ) -> tuple[Artifact, bytes] | None:
        """See ``ArtifactStore``."""
        name = _name(tenant, key)
        if length > 0:
            wanted = {
                "Bucket": self._bucket,
                "Key": name,
                "Range": f"bytes={offset}-{offset + length - 1}",
            }

            async def fetch(client: AioBaseClient) -> tuple[dict[str, Any], bytes]:
                answer = await cast("Any", client).get_object(**wanted)
                async with answer["Body"] as stream:
                    return answer, await stream.read()

            try:
                answer, body = await self._aws.run(
                    "s3", fetch, effect=Effect.READ, expected=(*_ABSENT, "InvalidRange", "416")
                )
            except RefusedError as refused:
                if refused.code in _ABSENT:
                    return None
            else:
                size = int(answer["ContentRange"].rpartition("/")[2])
                return _artifact(key, answer, size), body
        found = await self._head(key, name)  # a range beyond the end
        return None if found is None else (found, b"")

    async def open(self, tenant: str, key: str) -> Opened | None:
        """See ``ArtifactStore``: S3 gives a body in one answer."""
        del tenant, key
        return None

    async def list(self, tenant: str, prefix: str, limit: int, cursor: str) -> ArtifactPage:
        """See ``ArtifactStore``."""
        root = _root(tenant)
        after = _decoded(cursor) if cursor else ""
        try:
            begins = encoded(prefix)
        except UnicodeEncodeError:
            return ArtifactPage(artifacts=())
        if len(prefix.encode()) > ARTIFACT_KEY_BYTES_MAX:  # S3 would refuse to look
            return ArtifactPage(artifacts=())
        listing: dict[str, Any] = {"Prefix": root + begins}
        if after:
            listing["StartAfter"] = root + encoded(after)
        names: list[tuple[str, str]] = []
        more = True
        for _ in range(LIST_REQUESTS_MAX):
            if not more or len(names) > limit:
                break
            listing["MaxKeys"] = min(limit + 1 - len(names), 1000)
            page = await self._call("list_objects_v2", Effect.READ, **listing)
            listed = [(_readable(one["Key"], root), one["Key"]) for one in page.get("Contents", ())]
            names += [(key, name) for key, name in listed if key is not None]
            more = bool(page.get("IsTruncated"))
            listing.pop("StartAfter", None)
            listing["ContinuationToken"] = page.get("NextContinuationToken")
        shown = tuple(names[:limit])
        artifacts = await self._described(shown)
        goes_on = more or len(names) > limit
        end = encode_token(shown[-1][0]) if goes_on and shown else ""
        return ArtifactPage(artifacts=artifacts, cursor=end)

    async def delete(self, tenant: str, key: str) -> bool:
        """See ``ArtifactStore``."""
        name = _name(tenant, key)
        found = await self._head(key, name)
        if found is None:
            return False
        await self._call("delete_object", Effect.SAFE, Key=name)
        self._usage.note(tenant, -found.size)
        return True

    async def used(self, tenant: str) -> int:
        """Bytes of a tenant's artifacts."""
        listing: dict[str, Any] = {"Prefix": _root(tenant)}
        total = 0
        while True:
            page = await self._call("list_objects_v2", Effect.READ, **listing)
            total += sum(int(one["Size"]) for one in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return total
            listing["ContinuationToken"] = page["NextContinuationToken"]

    async def _freed(self, tenant: str, key: str, name: str) -> int:
        """What replacing the artifact that stands there gives back to the quota."""
        if not self._usage.limited(tenant):
            return 0
        found = await self._head(key, name)
        return found.size if found is not None else 0

    async def _require(self, tenant: str, size: int, freed: int) -> None:
        if size > ARTIFACT_BYTES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the artifact has more than {ARTIFACT_BYTES_MAX} bytes",
                data={"limit": ARTIFACT_BYTES_MAX},
            )
        await self._usage.require(tenant, size - freed)

    async def _head(self, key: str, name: str) -> Artifact | None:
        try:
            answer = await self._call("head_object", Effect.READ, _ABSENT, Key=name)
        except RefusedError:
            return None
        return _artifact(key, answer, int(answer["ContentLength"]))

    async def _described(self, names: Named) -> tuple[Artifact, ...]:
        """Descriptions in order; a listing of S3 has neither type nor digest."""
        slots = asyncio.Semaphore(HEADS_IN_FLIGHT)

        async def one(key: str, name: str) -> Artifact | None:
            async with slots:
                return await self._head(key, name)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(key, name)) for key, name in names]
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None
        found = (task.result() for task in tasks)
        return tuple(artifact for artifact in found if artifact is not None)

    async def _put_parts(
        self,
        tenant: str,
        key: str,
        content_type: ContentType,
        begun: bytearray,
        body: AsyncIterator[bytes],
        freed: int,
    ) -> Artifact:
        await self._require(tenant, len(begun), freed)
        digest = hashlib.sha256()
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for part in in_parts(begun, body, self._part_bytes):
                size += len(part)
                await self._require(tenant, size, freed)
                await _feed(digest, part)
                yield part

        async with self._uploads.staged(tenant, counted()) as staged:
            artifact = _made(key, size, content_type, digest.hexdigest())
            await self._call(
                "copy_object",
                Effect.SAFE,
                Key=_name(tenant, key),
                CopySource={"Bucket": self._bucket, "Key": staged},
                MetadataDirective="REPLACE",
                **_description(artifact),
            )
        self._usage.note(tenant, artifact.size - freed)
        return artifact

    async def _call(
        self,
        operation: str,
        effect: Effect,
        expected: tuple[str, ...] = (),
        /,
        **arguments: object,
    ) -> dict[str, Any]:
        return await self._aws.call(
            "s3", operation, {"Bucket": self._bucket, **arguments}, effect=effect, expected=expected
        )


async def _feed(digest: Digest, part: bytes) -> None:
    if len(part) < OFF_LOOP_BYTES:
        digest.update(part)
    else:
        await asyncio.to_thread(digest.update, part)


def _made(key: str, size: int, content_type: ContentType, sha256: str) -> Artifact:
    told = told_type(content_type)
    _check_type(told)
    return Artifact(key=key, size=size, content_type=told, sha256=sha256, created_ms=now_ms())


def _description(artifact: Artifact) -> dict[str, object]:
    return {
        "ContentType": artifact.content_type,
        "Metadata": {
            _SHA256: artifact.sha256,
            _CREATED: str(artifact.created_ms),
            _TYPE: artifact.content_type,
        },
    }


def _artifact(key: str, answer: Mapping[str, Any], size: int) -> Artifact:
    """What S3 says of an object; one that another tool put there has no digest."""
    noted: Mapping[str, str] = answer.get("Metadata", {})
    modified: datetime = answer["LastModified"]
    created = noted.get(_CREATED, "")
    return Artifact(
        key=key,
        size=size,
        content_type=noted.get(_TYPE) or str(answer.get("ContentType", "")),
        sha256=noted.get(_SHA256, ""),
        created_ms=int(created) if created.isdecimal() else round(modified.timestamp() * 1000),
    )


def _root(tenant: str) -> str:
    if not is_tenant_id(tenant):
        raise MeshError(ErrorKind.PARAMS, "this tenant has no artifacts")
    return f"{tenant}/"


def _name(tenant: str, key: str) -> str:
    root = _root(tenant)
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not size:
        raise MeshError(ErrorKind.PARAMS, "the key must be non-empty Unicode text")
    if size > ARTIFACT_KEY_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the key has {size} bytes; the limit is {ARTIFACT_KEY_BYTES_MAX}",
        )
    return root + encoded(key)


def _check_type(content_type: str) -> None:
    known = content_type.isascii() and content_type.isprintable()
    if not known or not 0 < len(content_type) <= CONTENT_TYPE_CHARS_MAX:
        raise MeshError(
            ErrorKind.PARAMS,
            f"the content type must be 1 to {CONTENT_TYPE_CHARS_MAX} printable ASCII characters",
        )


def _decoded(cursor: str) -> str:
    try:
        key = decode_token(cursor)
    except ValueError:
        key = ""
    if not 0 < len(key.encode()) <= ARTIFACT_KEY_BYTES_MAX:
        raise MeshError(ErrorKind.PARAMS, "unknown cursor")
    return key


def _readable(name: str, root: str) -> str | None:
    """Key of an object; None for one that no runner can name."""
    try:
        return decoded(name.removeprefix(root)) or None
    except ValueError:
        return None
