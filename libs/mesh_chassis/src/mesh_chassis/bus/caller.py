"""Requests, calls and operations: one attempt each, and what follows from its failure.

Everything is bounded by the caller's time-out; a refusal that proves that nothing ran is repeated
as ``retries`` says; every error tells whether the call may have run.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from mcp_proto.contracts import Operation
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.limits import BUS_FRAME_HEADROOM_BYTES, INLINE_MAX_BYTES, START_BY_S
from mesh_chassis.bus.blob import BlobExchange
from mesh_chassis.bus.broker_time import BrokerClock
from mesh_chassis.bus.frames import (
    call_block,
    check_subject,
    decode_error,
    decode_headers,
    encode_headers,
)
from mesh_chassis.bus.link import Link
from mesh_chassis.bus.offers import Parts
from mesh_chassis.bus.retries import BusyQueue, Repeats
from mesh_chassis.bus.waiters import CallWaiter, PlainWaiter

__all__ = ["Caller", "Reply"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

CONGESTION_TIMEOUT_S = 2.0
"""How long a message waits for a socket that takes no more."""
_SMALL = 32 * 1024  # below any inline limit: not worth looking it up
_BLOB_MARK = b"Mesh-Blob: "
_START_BY_MS = int(START_BY_S * 1000)
_json = msgspec.json.Encoder()


class Reply(msgspec.Struct, frozen=True):
    """The one reply of a plain request."""

    payload: bytes
    headers: Mapping[str, str]


class Caller:
    """What ``Bus`` sends requests with.

    Args:
        link: connection.
        blobs: claim checks of the process.
        clock: the broker's clock.
        new_request_id: makes a ``Mesh-Req`` for calls that bring none.
    """

    def __init__(
        self,
        link: Link,
        blobs: BlobExchange,
        clock: BrokerClock,
        new_request_id: Callable[[], str],
    ) -> None:
        self._link = link
        self._mux = link.mux
        self._blobs = blobs
        self._clock = clock
        self._new_request_id = new_request_id
        self._busy = BusyQueue()
        self._decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}

    @property
    def max_payload(self) -> int:
        """Largest body of one message: the broker's ceiling less room for headers."""
        return self._link.client.max_payload - BUS_FRAME_HEADROOM_BYTES

    @property
    def inline_max(self) -> int:
        """Largest body sent inline; above, a claim check."""
        return min(INLINE_MAX_BYTES, self.max_payload)

    async def room(self, size: int) -> None:
        """Refuse what the broker would answer by closing the connection, or never see.

        Args:
            size: bytes of the body.

        Raises:
            MeshError: ``too_large``; ``bus`` unless connected, or when the socket takes no more.
        """
        link = self._link
        if size > _SMALL and size > self.max_payload:
            raise MeshError(
                ErrorKind.TOO_LARGE, f"message exceeds {self.max_payload} bytes on the bus"
            )
        if not link.connected:
            raise _away()
        if link.client.congested:
            try:
                async with asyncio.timeout(CONGESTION_TIMEOUT_S):
                    await link.client.room()
            except (TimeoutError, OSError):
                raise _away() from None
            if not link.connected:
                raise _away()

    async def request(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, timeout_s: float
    ) -> Reply:
        """``Bus.request``."""
        deadline = self._mux.loop.time() + timeout_s
        repeats: Repeats | None = None
        while True:
            try:
                body, block = await self.ask(subject, payload, headers, deadline)
            except MeshError as error:
                repeats = repeats or self._repeats(subject, "", timeout_s)
                await self._wait_after(error, repeats, deadline)
            else:
                return Reply(payload=body, headers=decode_headers(block) if block else {})

    async def operation(self, op: Operation[P, R], params: P, timeout_s: float) -> R:
        """``Bus.operation``."""
        deadline = self._mux.loop.time() + timeout_s
        payload = _json.encode(params)
        claim = await self._claim(payload, op.tenant, timeout_s)
        if claim:
            payload = b""
        repeats: Repeats | None = None
        try:
            while True:
                try:
                    body = await self._operate(op, payload, claim, deadline)
                except MeshError as error:
                    repeats = repeats or self._repeats(op.subject, op.service, timeout_s)
                    await self._wait_after(error, repeats, deadline)
                else:
                    return self._decode(op, body)
        finally:
            self._done(repeats, claim)

    async def call(
        self,
        subject: str,
        payload: bytes | Parts,
        *,
        envelope: RequestEnvelope,
        timeout_s: float,
        tenant: str,
        on_frame: Callable[[bytes], None] | None,
    ) -> bytes:
        """``Bus.call``."""
        mux, link = self._mux, self._link
        deadline = mux.loop.time() + timeout_s
        request_id = envelope.request_id or self._new_request_id()
        claim: Mapping[str, str] = {}
        if len(payload) > _SMALL:
            claim = await self._claim(payload, tenant, timeout_s)
            payload = b"" if claim else bytes(payload)
        elif isinstance(payload, Parts):
            payload = bytes(payload)
        repeats: Repeats | None = None
        try:
            while True:
                waiter = CallWaiter(
                    mux,
                    subject,
                    deadline=deadline,
                    tenant=tenant,
                    request_id=request_id,
                    on_frame=on_frame,
                )
                try:
                    heads = self._block(waiter, claim, envelope)
                    if len(payload) > _SMALL or not link.connected or link.client.congested:
                        await self.room(len(payload))
                    reply = mux.register(waiter)
                    waiter.sent = mux.client.send(subject, reply, payload, heads)
                    answer = await waiter.future
                    if isinstance(answer, MeshError):
                        raise answer
                    body, block = answer
                    if _BLOB_MARK in block:
                        body = await self._fetch(block, tenant, deadline)
                except MeshError as error:
                    repeats = repeats or self._repeats(subject, tenant, timeout_s)
                    await self._wait_after(error, repeats, deadline)
                except asyncio.CancelledError:
                    mux.abandon(waiter)
                    raise
                else:
                    return body
        finally:
            self._done(repeats, claim)

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, deadline: float
    ) -> tuple[bytes, bytes]:
        """One plain request without repeats; the reply's body and header block."""
        check_subject(subject)
        block = encode_headers(headers) if headers else b""
        await self.room(len(payload))
        waiter = PlainWaiter(self._mux, subject, deadline)
        reply = self._mux.register(waiter)
        waiter.sent = self._mux.client.send(subject, reply, payload, block)
        try:
            return await waiter.answer()
        finally:
            self._mux.forget(waiter)

    def _block(
        self, waiter: CallWaiter, claim: Mapping[str, str], envelope: RequestEnvelope
    ) -> bytes:
        """Header block of a call, with the times that hold when it is sent now."""
        remaining_ms = int((waiter.deadline - waiter.started) * 1000)
        if remaining_ms <= 0:
            raise _too_late()
        # The broker's clock, as the receiver reads it: a clock of ours that is off loses no call.
        wall = self._clock.now_ms()
        deadline_ms = envelope.deadline_ms or wall + remaining_ms
        start_by_ms = envelope.start_by_ms or wall + _START_BY_MS
        check_subject(waiter.subject)
        block = None
        if not claim:
            block = call_block(
                envelope,
                waiter.request_id,
                timeout_ms=remaining_ms,
                deadline_ms=deadline_ms,
                start_by_ms=start_by_ms,
            )
        if block is None:
            headers = envelope.to_headers()
            headers["Mesh-Stream"] = "1"
            headers["Mesh-Req"] = waiter.request_id
            headers["Mesh-Timeout-Ms"] = str(remaining_ms)
            headers["Mesh-Deadline"] = str(deadline_ms)
            headers["Mesh-Start-By"] = str(start_by_ms)
            headers.update(claim)
            block = encode_headers(headers)
        return block

    async def _operate(
        self, op: Operation[P, R], payload: bytes, claim: Mapping[str, str], deadline: float
    ) -> bytes:
        remaining_ms = int((deadline - self._mux.loop.time()) * 1000)
        headers = {
            "Mesh-Wire": "1",
            "Mesh-Timeout-Ms": str(max(1, remaining_ms)),
            "Mesh-Deadline": str(self._clock.now_ms() + remaining_ms),
            **claim,
        }
        body, block = await self.ask(op.subject, payload, headers, deadline)
        if not block:
            return body
        answered = decode_headers(block)
        if Header.SERVICE_ERROR_CODE in answered:
            raise decode_error(body, answered[Header.SERVICE_ERROR_CODE])
        if Header.BLOB in answered:
            return await self._fetch(block, op.tenant, deadline)
        return body

    def _decode(self, op: Operation[P, R], body: bytes) -> R:
        decoder = self._decoders.get(op.result)
        if decoder is None:
            decoder = msgspec.json.Decoder(op.result)
            self._decoders[op.result] = decoder
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(
                ErrorKind.INTERNAL,
                f"{op.service} gave an answer of another shape",
                outcome=Outcome.EXECUTED,
                internal=str(error),
            ) from error

    async def _claim(
        self, payload: bytes | Parts, tenant: str, timeout_s: float
    ) -> Mapping[str, str]:
        if len(payload) <= _SMALL or len(payload) <= self.inline_max:
            return {}
        try:
            async with asyncio.timeout(timeout_s):
                return await self._blobs.offer(payload, tenant)
        except TimeoutError:
            raise _too_late() from None

    async def _fetch(self, block: bytes, tenant: str, deadline: float) -> bytes:
        left = deadline - self._mux.loop.time()
        try:
            return await self._blobs.pull(decode_headers(block), tenant, left)
        except MeshError as error:
            error.outcome = Outcome.EXECUTED  # only its answer did not arrive
            raise

    def _repeats(self, subject: str, tenant: str, timeout_s: float) -> Repeats:
        target = subject.rpartition(".")[0]
        return Repeats(self._busy, target=target, tenant=tenant, budget_s=timeout_s)

    async def _wait_after(self, error: MeshError, repeats: Repeats, deadline: float) -> None:
        """Wait before the next attempt, or raise the refusal."""
        now = self._mux.loop.time()
        wait = repeats.wait_after(error, now=now, reconnected_at=self._link.reconnected_at)
        if wait is None or now + wait >= deadline:
            raise error
        await asyncio.sleep(wait)

    def _done(self, repeats: Repeats | None, claim: Mapping[str, str]) -> None:
        if repeats is not None:
            repeats.done()
        if claim:
            self._blobs.release(claim)


def _away() -> MeshError:
    return MeshError(ErrorKind.BUS, "the bus is not connected", retry_after_s=1.0)


def _too_late() -> MeshError:
    return MeshError(ErrorKind.DEADLINE, "the call exceeded its time", outcome=Outcome.NOT_EXECUTED)
