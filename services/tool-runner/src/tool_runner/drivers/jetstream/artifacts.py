"""Artifacts on JetStream: objects of the tenant's bucket under ``artifacts/<key>``.

The layout is that of ``nats object`` (ADR-20), so the stock tool lists and fetches them. Chunks
are written first, under a name nobody knows; the description that makes them visible is one
message, written over the very description that was there before. So an artifact is there whole
or not at all, and of two writers each replaces what the other wrote or is replaced by it.

What nobody can read any more is rolled up a little later, for the sake of whoever is still reading
it; what a runner that died left behind is found by a sweep.
"""

import asyncio
import hashlib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from mcp_proto.buckets import tenant_objects
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.subjects import decode_token, encode_token
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import now_ms
from mesh_chassis.jetstream import Conflict, stored_write
from tool_runner.core.json_text import JsonLength
from tool_runner.drivers import chunks
from tool_runner.drivers.chunks import ObjectInfo
from tool_runner.drivers.jetstream import objects_view
from tool_runner.drivers.jetstream.objects_view import ARTIFACTS, artifact_of, digest_text
from tool_runner.drivers.jetstream.streams import TenantStreams
from tool_runner.drivers.jetstream.usage import OVERHEAD_BYTES, Usage
from tool_runner.drivers.storage import (
    ARTIFACT_BYTES_MAX,
    ARTIFACT_KEY_BYTES_MAX,
    SCAN_MAX,
    Artifact,
    ArtifactPage,
    ContentType,
    Opened,
    told_type,
)

__all__ = ["JetStreamArtifacts"]

UPLOAD_MAX_S = 600.0
"""Longest upload; what is older and belongs to nothing is nobody's any more."""
ORPHAN_S = 900.0
SWEEP_EVERY_S = 300.0
GRACE_S = 5.0
"""How long the chunks of a replaced or deleted artifact stay for those who read it."""
RETIRED_MAX = 10_000
"""Replaced bodies that wait for that; further ones go at once."""
TOMBSTONE_S = 60
COMMIT_ATTEMPTS = 16
READ_ATTEMPTS = 4
LIST_BATCH = 200
OFF_LOOP_BYTES = 256 * 1024
"""Pieces from this size are hashed on another thread."""
_RETIRE_TICK_S = 0.5

_log = logging.getLogger(__name__)


class _Retired(msgspec.Struct, frozen=True):
    due: float
    tenant: str
    subject: str


class JetStreamArtifacts:
    """``ArtifactStore`` over one connection; ``run`` belongs beside it, ``close`` behind it.

    Args:
        bus: connected.
        streams: makes the buckets.
        usage: quotas.
    """

    def __init__(self, bus: Bus, streams: TenantStreams, usage: Usage) -> None:
        self._bus = bus
        self._streams = streams
        self._usage = usage
        self._loop = asyncio.get_running_loop()
        self._retired: deque[_Retired] = deque()
        usage.relief = self._relieve

    async def put(
        self, tenant: str, key: str, body: AsyncIterator[bytes], content_type: ContentType
    ) -> Artifact:
        """See ``ArtifactStore``."""
        name = _name(key)
        before, replaced = await self._latest(tenant, name)
        upload = _Upload(self._usage, tenant, body)
        nuid = hashlib.sha256(name.encode()).hexdigest()[:16] + os.urandom(8).hex()
        subject = f"$O.{tenant_objects(tenant)}.C.{nuid}"
        committing = False
        try:
            async with asyncio.timeout(UPLOAD_MAX_S), aclosing(upload.pieces()) as pieces:
                sequences = await chunks.write_chunks(self._bus, subject, pieces, {}, upload.wrote)
            info = ObjectInfo(
                name=name,
                bucket=tenant_objects(tenant),
                nuid=nuid,
                size=upload.size,
                chunks=len(sequences),
                digest=digest_text(await upload.sha256()),
                metadata={
                    objects_view.CONTENT_TYPE: told_type(content_type),
                    objects_view.CREATED: str(now_ms()),
                    chunks.SEQUENCES: chunks.noted(sequences),
                    **upload.noted(),
                },
            )
            committing = True
            replaced = await self._commit(tenant, info, before, replaced, {})
        except BaseException as error:
            if not committing:
                _nothing_is_visible(error)
            # A description that may have been stored keeps its chunks; else the sweep finds them.
            if not committing or _certain(error):
                await self._drop(subject)
            if isinstance(error, TimeoutError):
                raise MeshError(
                    ErrorKind.DEADLINE,
                    "the upload took too long; nothing of it is kept",
                    outcome=Outcome.NOT_EXECUTED,
                ) from None
            raise
        finally:
            upload.settle()
        await self._retire(tenant, replaced)
        return artifact_of(info)

    async def head(self, tenant: str, key: str) -> Artifact | None:
        """See ``ArtifactStore``."""
        _, info = await self._latest(tenant, _name(key))
        return None if info is None else artifact_of(info)

    async def read(
        self, tenant: str, key: str, offset: int, length: int
    ) -> tuple[Artifact, bytes] | None:
        """See ``ArtifactStore``."""
        name = _name(key)
        for _ in range(READ_ATTEMPTS):
            _, info = await self._latest(tenant, name)
            if info is None:
                return None
            try:
                body = await chunks.read_range(
                    self._bus,
                    info,
                    chunks.sequences_of(info.metadata.get(chunks.SEQUENCES, "")),
                    offset,
                    min(info.size, offset + length),
                )
            except MeshError as error:
                if error.kind is not ErrorKind.LOST:
                    raise
                continue  # replaced or deleted long enough ago: look again
            return artifact_of(info), body
        raise MeshError(ErrorKind.LOST, "a part of the artifact is gone")

    async def open(self, tenant: str, key: str) -> Opened | None:
        """See ``ArtifactStore``."""
        _, info = await self._latest(tenant, _name(key))
        if info is None:
            return None
        noted = info.metadata.get(objects_view.JSON_BYTES, "")
        sequences = chunks.sequences_of(info.metadata.get(chunks.SEQUENCES, ""))
        return Opened(
            artifact=artifact_of(info),
            json_bytes=int(noted) if noted.isdigit() else -1,
            parts=chunks.read_parts(self._bus, info, sequences),
        )

    async def list(self, tenant: str, prefix: str, limit: int, cursor: str) -> ArtifactPage:
        """See ``ArtifactStore``."""
        after = _decoded(cursor) if cursor else ""
        bucket = _bucket(tenant)
        subjects = await self._subjects(tenant, "M")
        if len(subjects) > SCAN_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, f"the tenant has more than {SCAN_MAX} artifacts to list"
            )
        names = (objects_view.name_of(bucket, one) for one in subjects)
        start = ARTIFACTS + prefix
        keys = sorted(
            name.removeprefix(ARTIFACTS)
            for name in names
            if name.startswith(start) and name.removeprefix(ARTIFACTS) > after
        )
        found: list[Artifact] = []
        for at in range(0, len(keys), LIST_BATCH):
            wanted = keys[at : at + min(LIST_BATCH, limit + 1)]
            found += await self._described(bucket, wanted)
            if len(found) > limit:
                page = tuple(found[:limit])
                return ArtifactPage(artifacts=page, cursor=encode_token(page[-1].key))
        return ArtifactPage(artifacts=tuple(found))

    async def delete(self, tenant: str, key: str) -> bool:
        """See ``ArtifactStore``."""
        name = _name(key)
        before, info = await self._latest(tenant, name)
        if info is None:
            return False
        gone = ObjectInfo(name=name, bucket=info.bucket, nuid=info.nuid, deleted=True)
        replaced = await self._commit(tenant, gone, before, info, {"Nats-TTL": f"{TOMBSTONE_S}s"})
        await self._retire(tenant, replaced)
        return True

    # What is visible

    async def _latest(self, tenant: str, name: str) -> tuple[int, ObjectInfo | None]:
        bucket = _bucket(tenant)
        wanted = objects_view.last_of(bucket, name)
        return await self._streams.within(
            "objects", tenant, lambda: objects_view.description(self._bus, bucket, wanted)
        )

    async def _commit(
        self,
        tenant: str,
        info: ObjectInfo,
        before: int,
        replaced: ObjectInfo | None,
        headers: dict[str, str],
    ) -> ObjectInfo | None:
        """Write a description over the newest one; returns which that was."""
        bucket = _bucket(tenant)
        subject = objects_view.description_subject(bucket, info.name)
        payload = msgspec.json.encode(info)
        for _ in range(COMMIT_ATTEMPTS):
            expected = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(before)}
            try:
                await stored_write(
                    self._bus, subject, payload, {**headers, **expected}, repeat=True
                )
            except Conflict as conflict:
                wanted = objects_view.at(conflict.revision)
                found, now = await objects_view.description(self._bus, bucket, wanted)
                if conflict.attempts > 1 and found and now is not None and now.nuid == info.nuid:
                    return replaced  # the winner was our own first copy
                before, replaced = conflict.revision, now
            else:
                return replaced
        raise MeshError(
            ErrorKind.OVERLOADED,
            "too many writers on one artifact",
            retry_after_s=0.5,
            outcome=Outcome.NOT_EXECUTED,
        )

    async def _described(self, bucket: str, keys: Sequence[str]) -> Sequence[Artifact]:
        names = [ARTIFACTS + key for key in keys]
        infos = await objects_view.descriptions(self._bus, bucket, names)
        return [artifact_of(infos[name]) for name in names if name in infos]

    async def _subjects(self, tenant: str, part: str) -> Sequence[str]:
        bucket = _bucket(tenant)
        return await self._streams.within(
            "objects", tenant, lambda: objects_view.subjects(self._bus, bucket, part)
        )

    # What nobody sees any more

    async def run(self) -> None:
        """Free what was replaced, and sweep what nobody owns, until cancelled."""
        swept = self._loop.time()
        while True:
            await asyncio.sleep(_RETIRE_TICK_S)
            now = self._loop.time()
            while self._retired and self._retired[0].due <= now:
                await self._drop(self._retired.popleft().subject)
            if now - swept >= SWEEP_EVERY_S:
                swept = now
                for tenant in self._streams.known("objects"):
                    await self._swept(tenant)

    async def close(self) -> None:
        """Free what still waits for it; best effort."""
        while self._retired and self._bus.connected:
            await self._drop(self._retired.popleft().subject)

    async def sweep(self, tenant: str, *, older_s: float = ORPHAN_S) -> int:
        """Free chunks that belong to no artifact and have not been written for a while.

        Returns:
            How many bodies were freed.

        Raises:
            MeshError: the broker does not answer.
        """
        bucket = _bucket(tenant)
        written = await self._subjects(tenant, "C")
        described = await self._subjects(tenant, "M")
        freed = 0
        for subject in objects_view.doubtful(bucket, written, described):
            if await objects_view.is_orphan(self._bus, bucket, subject, described, older_s):
                await self._drop(subject)
                freed += 1
        return freed

    async def _swept(self, tenant: str) -> None:
        try:
            freed = await self.sweep(tenant)
        except MeshError as error:
            _log.info("not swept: %s", error.message, extra={"tenant": tenant})
            return
        if freed:
            _log.warning("%d uploads of a dead runner freed", freed, extra={"tenant": tenant})

    async def _retire(self, tenant: str, info: ObjectInfo | None) -> None:
        if info is None or not info.chunks:
            return
        subject = f"$O.{info.bucket}.C.{info.nuid}"
        if len(self._retired) >= RETIRED_MAX:
            await self._drop(subject)
        else:
            self._retired.append(_Retired(self._loop.time() + GRACE_S, tenant, subject))

    async def _relieve(self, tenant: str) -> bool:
        mine = [one for one in self._retired if one.tenant == tenant]
        for one in mine:
            self._retired.remove(one)
            await self._drop(one.subject)
        return bool(mine)

    async def _drop(self, subject: str) -> None:
        try:
            await chunks.forget(self._bus, subject)
        except MeshError as error:
            _log.info("chunks are left for the sweep: %s", error.message)


class _Upload:
    """Counts, hashes and meters a body on its way."""

    def __init__(self, usage: Usage, tenant: str, body: AsyncIterator[bytes]) -> None:
        self._usage = usage
        self._tenant = tenant
        self._body = body
        self._taken = 0
        self._hash = hashlib.sha256()
        self._hashing: asyncio.Future[None] | None = None
        self._json: JsonLength | None = JsonLength()
        self.size = 0

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body, once; refuses what is too large or has no room."""
        await self._take(OVERHEAD_BYTES * 2)
        async for piece in self._body:
            self.size += len(piece)
            if self.size > ARTIFACT_BYTES_MAX:
                raise MeshError(
                    ErrorKind.TOO_LARGE, f"an artifact has at most {ARTIFACT_BYTES_MAX} bytes"
                )
            await self._take(len(piece) + (len(piece) // chunks.CHUNK_BYTES + 1) * OVERHEAD_BYTES)
            await self._hashed()
            self._measure(piece)
            if len(piece) < OFF_LOOP_BYTES:
                self._hash.update(piece)
            else:
                self._hashing = asyncio.ensure_future(asyncio.to_thread(self._hash.update, piece))
            yield piece

    def wrote(self, size: int) -> None:
        """So much is in the stream: the broker counts it from here on."""
        size = min(size, self._taken)
        self._taken -= size
        self._usage.done(self._tenant, size)

    def noted(self) -> dict[str, str]:
        """What its description says beside type, time and place."""
        size = self._json.end() if self._json is not None else -1
        return {objects_view.JSON_BYTES: str(size)} if size >= 0 else {}

    def _measure(self, piece: bytes) -> None:
        if self._json is not None and len(piece) > OFF_LOOP_BYTES:
            self._json = None  # it would hold up the loop; such a body is read whole
        if self._json is not None and not self._json.feed(piece):
            self._json = None

    async def sha256(self) -> bytes:
        """Of the whole."""
        await self._hashed()
        return self._hash.digest()

    def settle(self) -> None:
        """Tell the usage that what was taken has been written, or never will be."""
        taken, self._taken = self._taken, 0
        self._usage.done(self._tenant, taken)

    async def _take(self, size: int) -> None:
        await self._usage.admit(self._tenant, size)
        self._taken += size

    async def _hashed(self) -> None:
        hashing, self._hashing = self._hashing, None
        if hashing is not None:
            await hashing


def _certain(error: BaseException) -> bool:
    return isinstance(error, MeshError) and error.outcome is Outcome.NOT_EXECUTED


def _nothing_is_visible(error: BaseException) -> None:
    if isinstance(error, MeshError):
        error.outcome = Outcome.NOT_EXECUTED


def _bucket(tenant: str) -> str:
    try:
        return tenant_objects(tenant)
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None


def _name(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not size:
        raise MeshError(ErrorKind.PARAMS, "the key must be non-empty Unicode text")
    if size > ARTIFACT_KEY_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the key has {size} bytes as UTF-8; the limit is {ARTIFACT_KEY_BYTES_MAX}",
        )
    return ARTIFACTS + key


def _decoded(cursor: str) -> str:
    try:
        return decode_token(cursor)
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "unknown cursor") from None
