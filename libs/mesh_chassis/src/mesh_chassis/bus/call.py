"""One call at a runner: what the handler sees, and the frames or the single reply it becomes."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from mcp_proto.envelope import FRAMES_CLI, Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import Subject
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.frames import (
    NO_HEADERS,
    encode_error,
    encode_headers,
    error_headers,
    frame_headers,
    message_id,
)

__all__ = ["Call", "Intake"]

_FRAME_HEADERS_KEPT = 64
_end_blocks = [frame_headers("end", seq) for seq in range(_FRAME_HEADERS_KEPT)]
_msg_blocks = [frame_headers("msg", seq) for seq in range(_FRAME_HEADERS_KEPT)]


class Intake(Protocol):
    """Uses the body of a call while it is being pulled; nothing of that counts before the call."""

    async def feed(self, part: bytes) -> None:
        """Take the next part of the body."""
        ...

    def rest(self, parts: list[bytes]) -> bytes | None:
        """The body arrived, whole and undamaged; what the handler gets for it, None = all."""
        ...

    async def close(self) -> None:
        """The call is over, whatever came of it: undo what nobody asked for."""
        ...


class Call:
    """A request being served.

    Attributes:
        subject: parsed subject; whether it agrees with headers and body is for the handler.
        envelope: parsed headers.
        payload: request body, a claim check already pulled.
        headers: all headers of the request; never to be copied into an answer.
        intake: used its body while it came; None = nothing did.
    """

    __slots__ = (
        "_bus",
        "_cancelled",
        "_reply",
        "_seq",
        "begun",
        "deadline",
        "envelope",
        "fingerprint",
        "followers",
        "headers",
        "intake",
        "key",
        "last_frame",
        "over",
        "payload",
        "started",
        "stopped_by",
        "subject",
        "task",
    )

    def __init__(
        self,
        bus: Bus,
        *,
        subject: Subject,
        envelope: RequestEnvelope,
        payload: bytes,
        headers: Mapping[str, str],
        reply: str,
        now: float,
        budget_s: float,
    ) -> None:
        self._bus = bus
        self.subject = subject
        self.envelope = envelope
        self.payload = payload
        self.headers = headers
        self._reply = reply
        self._seq = 0
        self._cancelled: asyncio.Event | None = None
        self.started = now
        self.deadline = now + budget_s
        self.last_frame = now
        self.over = False
        self.begun = False
        self.stopped_by = ""
        self.key: tuple[str, str] | None = None
        self.fingerprint = 0
        self.followers: list[Call] = []
        self.task: asyncio.Task[None] | None = None
        self.intake: Intake | None = None

    @property
    def remaining_s(self) -> float:
        """Budget left, in seconds."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the caller cancelled; the handler's task is cancelled as well."""
        if self._cancelled is None:
            self._cancelled = asyncio.Event()
            if self.stopped_by == "caller":
                self._cancelled.set()
        return self._cancelled

    @property
    def frames(self) -> bool:
        """True when the caller asked for frames."""
        return bool(self.envelope.stream) and bool(self._reply)

    @property
    def claims(self) -> bool:
        """True when the caller can resolve a claim check: it speaks frames or mesh headers."""
        return bool(self.envelope.stream) or Header.WIRE in self.headers

    @property
    def room(self) -> int:
        """Largest answer to a caller that cannot resolve a claim check, in bytes."""
        return self._bus.max_payload

    async def emit(self, notification: bytes) -> None:
        """Send a ``msg`` frame; dropped when the caller wants one plain reply or is gone.

        Waits while the socket takes no more.

        Raises:
            MeshError: ``too_large`` above the inline limit.
        """
        if len(notification) > self._bus.inline_max:
            raise MeshError(ErrorKind.TOO_LARGE, "a notification exceeds the inline limit")
        if self.over or not self.frames or not self._bus.connected:
            return
        client = self._bus.client
        if client.congested:
            try:
                async with asyncio.timeout(self.remaining_s):
                    await client.room()
            except (TimeoutError, OSError):
                return  # nobody reads; the deadline or the lost connection ends the call
        self._frame("msg", notification, NO_HEADERS)

    def cancel_by_caller(self) -> None:
        """Stop without an answer (MCP: a cancelled request gets none)."""
        if self.over:
            return
        self.over = True
        self.stopped_by = "caller"
        if self._cancelled is not None:
            self._cancelled.set()
        self.interrupt()

    def interrupt(self) -> None:
        """Cancel the handler; a task that has not begun sees ``over`` or ``stopped_by``."""
        if self.begun and self.task is not None:
            self.task.cancel()

    # The endpoint's side

    def acknowledge(self, block: bytes) -> None:
        """The ``ack`` frame, written before the handler starts."""
        if self.frames:
            self._seq = 1
            self._bus.client.send(self._reply, "", b"", block)

    def keep_alive(self, now: float) -> None:
        """The ``ka`` frame."""
        self.last_frame = now
        if self.frames and not self.over and self._bus.connected:
            self._frame("ka", b"", NO_HEADERS)

    def answer(self, body: bytes, claim: Mapping[str, str] = NO_HEADERS) -> None:
        """The terminal ``end`` frame or the one plain reply; later ones are dropped."""
        if self.over:
            return
        self.over = True
        for follower in self.followers:
            follower.answer(body, claim)
        if not self._reply or not self._bus.connected:
            return
        if self.frames:
            self._frame("end", body, claim)
            self._close_stream()
        else:
            block = encode_headers(claim) if claim else b""
            self._bus.client.send(self._reply, "", body, block)

    def answer_error(self, error: MeshError) -> None:
        """The terminal ``err`` frame or the one plain reply, with the ADR-32 pair."""
        if self.over:
            return
        self.over = True
        for follower in self.followers:
            follower.answer_error(error)
        if not self._reply or not self._bus.connected:
            return
        body = encode_error(error, message_id(self.payload))
        if len(body) > self._bus.max_payload:
            # The broker would close the connection of this whole process over it.
            body = encode_error(_bare(error), None)
        if self.frames:
            self._frame("err", body, error_headers(error))
            self._close_stream()
        else:
            self._bus.client.send(self._reply, "", body, encode_headers(error_headers(error)))

    def _close_stream(self) -> None:
        if self.envelope.stream == FRAMES_CLI:
            self._bus.client.send(self._reply, "", b"", b"")

    def _frame(self, frame: str, body: bytes, extra: Mapping[str, str]) -> None:
        seq = self._seq
        self._seq = seq + 1
        if not extra and seq < _FRAME_HEADERS_KEPT and frame in ("end", "msg"):
            block = (_end_blocks if frame == "end" else _msg_blocks)[seq]
        else:
            block = frame_headers(frame, seq, extra)
        if frame != "end":
            self.last_frame = asyncio.get_running_loop().time()
        self._bus.client.send(self._reply, "", body, block)


def _bare(error: MeshError) -> MeshError:
    """The same error without its data, which is larger than a message may be."""
    return MeshError(
        error.kind,
        error.message[:_MESSAGE_CHARS_MAX],
        outcome=error.outcome,
        retry_after_s=error.retry_after_s,
    )


_MESSAGE_CHARS_MAX = 500
