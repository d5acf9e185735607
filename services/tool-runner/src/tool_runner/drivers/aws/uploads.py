"""Large bodies on their way into S3: uploaded in parts to a place that no listing shows."""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.drivers.aws.faults import Effect, RefusedError
from tool_runner.drivers.aws.session import Aws

__all__ = ["PARTS_IN_FLIGHT", "UPLOADS", "Uploads", "first_of", "in_parts"]

UPLOADS = ".uploads"
"""Prefix of what is on its way. No tenant id has a dot."""
PARTS_IN_FLIGHT = 3
CLEAN_S = 5.0
"""Longest removal of what is not needed."""

_CHECKSUM = "CRC32"
_GONE = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")

_log = logging.getLogger(__name__)

Parts = tuple[Mapping[str, object], ...]
"""Parts of an upload as S3 wants to see them at its end."""


class Uploads:
    """Uploads into one bucket.

    Args:
        aws: the connection.
        bucket: its name.
    """

    def __init__(self, aws: Aws, bucket: str) -> None:
        self._aws = aws
        self._bucket = bucket

    @contextlib.asynccontextmanager
    async def staged(self, tenant: str, parts: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
        """Upload a body; inside, it stands whole under the name that is given, for copying.

        Args:
            tenant: owner.
            parts: the body; each but the last has at least 5 MiB.

        Raises:
            MeshError: it could not be stored; whatever ``parts`` raises. Nothing stays.
        """
        name = f"{UPLOADS}/{tenant}/{secrets.token_hex(16)}"
        upload = await self._call("create_multipart_upload", Key=name, ChecksumAlgorithm=_CHECKSUM)
        place = {"Key": name, "UploadId": upload["UploadId"]}
        try:
            await self._complete(place, await self._send(place, parts))
            yield name
        except BaseException:
            await self._clean("abort_multipart_upload", place)
            raise
        finally:
            await self._clean("delete_object", {"Key": name})

    async def _send(self, place: Mapping[str, object], parts: AsyncIterator[bytes]) -> Parts:
        """Send a body, some parts at a time."""
        waiting: deque[asyncio.Task[dict[str, object]]] = deque()
        sent: list[dict[str, object]] = []
        try:
            async with asyncio.TaskGroup() as group:
                async for part in parts:
                    if len(waiting) >= PARTS_IN_FLIGHT:
                        sent.append(await waiting.popleft())
                    number = len(sent) + len(waiting) + 1
                    waiting.append(group.create_task(self._send_one(place, number, part)))
                sent += [await one for one in waiting]
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None
        return tuple(sent)

    async def _send_one(
        self, place: Mapping[str, object], number: int, part: bytes
    ) -> dict[str, object]:
        answer = await self._call(
            "upload_part", **place, PartNumber=number, Body=part, ChecksumAlgorithm=_CHECKSUM
        )
        proof = {name: answer[name] for name in (f"Checksum{_CHECKSUM}", "ETag") if name in answer}
        return {"PartNumber": number, **proof}

    async def _complete(self, place: Mapping[str, object], parts: Parts) -> None:
        try:
            await self._call(
                "complete_multipart_upload",
                ("NoSuchUpload",),
                **place,
                MultipartUpload={"Parts": parts},
            )
        except RefusedError as refused:
            # An attempt whose answer was lost has completed it; if not, the copy finds nothing.
            if not refused.repeated:
                raise MeshError(
                    ErrorKind.UPSTREAM,
                    "AWS S3 has forgotten the upload",
                    data={"upstream": "aws-s3"},
                    outcome=Outcome.NOT_EXECUTED,
                ) from None

    async def _clean(self, operation: str, place: Mapping[str, object]) -> None:
        """Remove what is not needed; what stays is invisible, and the bucket's rules sweep it."""
        with contextlib.suppress(TimeoutError, RefusedError):
            async with asyncio.timeout(CLEAN_S):
                try:
                    await self._call(operation, _GONE, **place)
                except MeshError as error:
                    _log.warning("an unfinished upload stays in S3: %s", error.message)

    async def _call(
        self, operation: str, expected: tuple[str, ...] = (), /, **arguments: object
    ) -> dict[str, object]:
        return await self._aws.call(
            "s3",
            operation,
            {"Bucket": self._bucket, **arguments},
            effect=Effect.SAFE,
            expected=expected,
        )


async def in_parts(
    begun: bytearray, body: AsyncIterator[bytes], part_bytes: int
) -> AsyncIterator[bytes]:
    """A body of which some is there, in parts of one size, the last one as it is."""
    held = begun
    while True:
        while len(held) >= part_bytes:
            part = bytes(memoryview(held)[:part_bytes])
            del held[:part_bytes]
            yield part
        piece = await anext(body, None)
        if piece is None:
            break
        held += piece
    if held:
        yield bytes(held)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
