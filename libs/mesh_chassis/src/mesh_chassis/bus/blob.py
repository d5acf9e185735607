"""Claim checks: a large body stays with its sender and is pulled in chunks.

The bus carries only a claim (instance, size, SHA-256). The receiver pulls 128 KiB ranges, four in
flight, over a second connection on both sides, so that small calls never queue behind them. The
sender forgets a body when it is released or after a minute without a pull.
"""

import asyncio
import hashlib
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mcp_proto import subjects
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_instance_id
from mcp_proto.limits import BLOB_CHUNK_BYTES, BLOB_IDLE_S, BLOB_MAX_BYTES, BLOB_WINDOW
from mesh_chassis.bus.frames import (
    decode_error,
    decode_headers,
    encode_error,
    encode_headers,
    error_headers,
    repliable,
)
from mesh_chassis.bus.link import Link
from mesh_chassis.bus.offers import TRAILING, Answer, LargeBody, Offer, Parts
from mesh_chassis.bus.waiters import PlainWaiter

__all__ = ["BlobExchange", "Tap"]

OFFERED_BYTES_MAX = 256 * 1024 * 1024
OFFERED_MAX = 1024
"""Bodies kept for receivers, in bytes and number; above, the call is refused as overloaded."""
PULLING_BYTES_MAX = 256 * 1024 * 1024
"""Bytes being pulled at once: a claim only says its size, the memory is ours."""
CHUNK_TIMEOUT_S = 5.0
CHUNK_TRIES = 3
"""A chunk is a read: it may be asked for again."""
EXPIRE_S = 5.0
_ID = re.compile(r"[0-9a-f]{32}")

Tap = Callable[[bytes], Awaitable[None]]
"""Takes a part of a body that is being pulled."""


class _Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """Request for a range, or the release of the whole body."""

    offset: int = 0
    length: int = 0
    release: bool = False


_ask_decoder = msgspec.json.Decoder(_Ask)
_ask_encoder = msgspec.json.Encoder()


class BlobExchange:
    """Both directions of one process, over a connection opened when first needed.

    Args:
        open_link: makes the second connection.
        instance: instance id; receivers pull from its subject.
    """

    def __init__(self, open_link: Callable[[], Awaitable[Link]], *, instance: str) -> None:
        self._open_link = open_link
        self._instance = instance
        self._link: Link | None = None
        self._serving = False
        self._opening = asyncio.Lock()
        self._offers: dict[str, Offer] = {}
        self._offered = 0
        self._pulling = 0
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def offered_bytes(self) -> int:
        """Bytes kept for receivers."""
        return self._offered

    async def offer(self, body: bytes | Parts | LargeBody, tenant: str) -> Mapping[str, str]:
        """Keep a body for its receiver.

        Args:
            body: the body, or what it is being made of; that ends with the offer.
            tenant: tenant of the call; only its subject serves the body.

        Returns:
            The headers of the claim, to be sent with an empty body.

        Raises:
            MeshError: ``too_large`` above 64 MiB, ``overloaded`` when too much is kept, ``bus``.
        """
        size = body.size if isinstance(body, LargeBody) else len(body)
        if size > BLOB_MAX_BYTES:
            raise MeshError(ErrorKind.TOO_LARGE, f"body exceeds {BLOB_MAX_BYTES} bytes")
        if self._offered + size > OFFERED_BYTES_MAX or len(self._offers) >= OFFERED_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, "too many large bodies under way", retry_after_s=1.0
            )
        await self._ready(serving=True)
        loop = asyncio.get_running_loop()
        blob_id = os.urandom(16).hex()
        self._offers[blob_id] = Offer(body, tenant, loop.time())
        self._offered += size
        if self._expiry is None:
            self._expiry = loop.call_later(EXPIRE_S, self._expire)
        return {
            Header.BLOB: f"{self._instance}.{blob_id}",
            Header.BLOB_SIZE: str(size),
            Header.BLOB_SHA256: TRAILING,
        }

    def release(self, claim: Mapping[str, str]) -> None:
        """Forget an offered body; harmless when it is gone already."""
        self._forget(claim[Header.BLOB].rpartition(".")[2])

    async def pull(self, headers: Mapping[str, str], tenant: str, timeout_s: float) -> bytes:
        """``pull_parts``, and its parts joined."""
        return b"".join(await self.pull_parts(headers, tenant, timeout_s))

    async def pull_parts(
        self, headers: Mapping[str, str], tenant: str, timeout_s: float, tap: Tap | None = None
    ) -> list[bytes]:
        """Fetch the body behind a claim and release it.

        Args:
            headers: headers of the message that carried the claim.
            tenant: tenant of the call.
            timeout_s: bound of the whole transfer.
            tap: gets each part in order while the next ones are on their way; while it waits,
                no more than a window of them is asked for.

        Raises:
            MeshError: ``request`` for a malformed claim, ``too_large``, ``overloaded``, ``lost``
                when the sender is gone or the checksum differs, ``deadline``.
        """
        subject, size, digest = _read_claim(headers, tenant)
        if self._pulling + size > PULLING_BYTES_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, "too many large bodies under way", retry_after_s=1.0
            )
        self._pulling += size
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._ready(serving=False)
                body, found, told = await _pull_all(link, subject, size, tap)
                if found != (told if digest == TRAILING else digest):
                    raise MeshError(ErrorKind.LOST, "a large body arrived damaged")
        except TimeoutError:
            raise MeshError(ErrorKind.DEADLINE, "a large body did not arrive in time") from None
        finally:
            self._pulling -= size
        if link.connected:
            link.client.send(subject, "", _ask_encoder.encode(_Ask(release=True)), b"")
        return body

    async def close(self) -> None:
        """Forget all bodies and close the second connection."""
        for blob_id in tuple(self._offers):
            self._forget(blob_id)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        async with self._opening:
            if self._link is not None:
                await self._link.close()
                self._link = None

    async def _ready(self, *, serving: bool) -> Link:
        link = self._link
        if link is not None and link.connected and (self._serving or not serving):
            return link
        async with self._opening:
            if self._link is None:
                self._link = await self._open_link()
            link = self._link
            if not link.connected:
                raise MeshError(ErrorKind.BUS, "the bus is not connected", retry_after_s=1.0)
            if serving and not self._serving:
                await link.client.add_route(
                    subjects.blob(subjects.ANY, self._instance, subjects.ANY), "", self._on_ask
                )
                await link.round_trip(CHUNK_TIMEOUT_S)
                self._serving = True
            return link

    def _on_ask(self, subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        link = self._link
        if link is None or not link.connected or not repliable(reply):
            return
        try:
            parsed = subjects.parse(subject.decode())
            ask = _ask_decoder.decode(payload)
        except (ValueError, msgspec.DecodeError):
            _refuse(link, reply, MeshError(ErrorKind.REQUEST, "not a request for a range"))
            return
        blob_id = parsed.names[-1]
        offer = self._offers.get(blob_id)
        if offer is None or offer.tenant != parsed.tenant:
            _refuse(link, reply, MeshError(ErrorKind.NOT_FOUND, "no such body"))
        elif ask.release:
            self._forget(blob_id)
        elif not (0 <= ask.offset < offer.size and 0 < ask.length <= BLOB_CHUNK_BYTES):
            _refuse(link, reply, MeshError(ErrorKind.PARAMS, "range outside of the body"))
        elif reply:
            offer.touched = asyncio.get_running_loop().time()
            offer.ask(ask.offset, ask.length, _answering(link, reply))

    def _forget(self, blob_id: str) -> None:
        offer = self._offers.pop(blob_id, None)
        if offer is not None:
            self._offered -= offer.size
            offer.forget()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() - BLOB_IDLE_S
        for blob_id in [key for key, offer in self._offers.items() if offer.touched < limit]:
            self._forget(blob_id)
        self._expiry = loop.call_later(EXPIRE_S, self._expire) if self._offers else None


def _answering(link: Link, reply: bytes) -> Answer:
    def answer(chunk: bytes, digest: str, failure: MeshError | None) -> None:
        if not link.connected:
            return  # the receiver asks again, or gives up
        if failure is not None:
            _refuse(link, reply, failure)
            return
        block = encode_headers({Header.BLOB_SHA256: digest}) if digest else b""
        link.client.send(reply.decode(), "", chunk, block)

    return answer


def _refuse(link: Link, reply: bytes, error: MeshError) -> None:
    if reply:
        block = encode_headers(error_headers(error))
        link.client.send(reply.decode(), "", encode_error(error, None), block)


def _read_claim(headers: Mapping[str, str], tenant: str) -> tuple[str, int, str]:
    instance, _, blob_id = headers.get(Header.BLOB, "").rpartition(".")
    size = headers.get(Header.BLOB_SIZE, "")
    digest = headers.get(Header.BLOB_SHA256, "")
    known = digest == TRAILING or len(digest) == 64
    if not (is_instance_id(instance) and _ID.fullmatch(blob_id) and known):
        raise MeshError(ErrorKind.REQUEST, "malformed claim")
    if not (size.isascii() and size.isdigit() and len(size) <= 12):
        raise MeshError(ErrorKind.REQUEST, "malformed claim")
    if int(size) > BLOB_MAX_BYTES:
        raise MeshError(ErrorKind.TOO_LARGE, f"body exceeds {BLOB_MAX_BYTES} bytes")
    return subjects.blob(tenant, instance, blob_id), int(size), digest


async def _pull_all(
    link: Link, subject: str, size: int, tap: Tap | None
) -> tuple[list[bytes], str, str]:
    """Ranges in order, ``BLOB_WINDOW`` of them in flight; the body, its SHA-256, and the one told.

    Each is hashed while the next ones are on their way: 128 KiB take a fraction of a millisecond.
    """
    under_way: deque[tuple[int, PlainWaiter]] = deque()
    chunks: list[bytes] = []
    hashed = hashlib.sha256()
    ahead = 0
    told = ""
    try:
        while ahead < size or under_way:
            while ahead < size and len(under_way) < BLOB_WINDOW:
                under_way.append((ahead, _ask_range(link, subject, ahead, size)))
                ahead += BLOB_CHUNK_BYTES
            offset, waiter = under_way.popleft()
            chunk, told = await _chunk(link, subject, offset, size, waiter)
            # The next is asked for first: the sender works while this one is hashed.
            if ahead < size:
                under_way.append((ahead, _ask_range(link, subject, ahead, size)))
                ahead += BLOB_CHUNK_BYTES
            hashed.update(chunk)
            chunks.append(chunk)
            if tap is not None:
                await tap(chunk)
    finally:
        for _, waiter in under_way:
            waiter.mux.forget(waiter)
            waiter.future.cancel()
    return chunks, hashed.hexdigest(), told


def _ask_range(link: Link, subject: str, offset: int, size: int) -> PlainWaiter:
    length = min(BLOB_CHUNK_BYTES, size - offset)
    ask = _ask_encoder.encode(_Ask(offset=offset, length=length))
    waiter = PlainWaiter(link.mux, subject, link.mux.loop.time() + CHUNK_TIMEOUT_S)
    waiter.sent = link.client.send(subject, link.mux.register(waiter), ask, b"")
    return waiter


async def _chunk(
    link: Link, subject: str, offset: int, size: int, waiter: PlainWaiter
) -> tuple[bytes, str]:
    """A range, and the digest that came with it."""
    tries = 1
    while True:
        try:
            try:
                payload, block = await waiter.answer()
            finally:
                waiter.mux.forget(waiter)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                raise MeshError(ErrorKind.LOST, "the sender of a large body is gone") from None
            if tries >= CHUNK_TRIES or error.kind is ErrorKind.DENIED or not link.connected:
                raise
        else:
            headers = decode_headers(block) if block else {}
            if Header.SERVICE_ERROR_CODE in headers:
                raise _refused(payload, headers[Header.SERVICE_ERROR_CODE])
            if len(payload) != min(BLOB_CHUNK_BYTES, size - offset):
                raise MeshError(ErrorKind.LOST, "the sender no longer has the large body")
            return payload, headers.get(Header.BLOB_SHA256, "")
        tries += 1
        waiter = _ask_range(link, subject, offset, size)


def _refused(payload: bytes, code: str) -> MeshError:
    error = decode_error(payload, code)
    if error.kind is ErrorKind.NOT_FOUND:
        return MeshError(ErrorKind.LOST, "the sender no longer has the large body")
    return error
