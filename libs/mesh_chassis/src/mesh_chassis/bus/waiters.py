"""What waits for replies: plain requests, calls with frames, and probes.

Their methods run inside the parser or the sweep of the mux: they never block and never raise.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import (
    CLOCK_LEEWAY_S,
    PROBE_AFTER_S,
    PROBE_TIMEOUT_S,
    SILENCE_MAX_S,
    START_BY_S,
)
from mesh_chassis.bus.frames import BOOT, decode_error, decode_headers

if TYPE_CHECKING:
    from mesh_chassis.bus.mux import ReplyMux

__all__ = ["CallWaiter", "PlainWaiter", "Probe", "Waiter"]

_NO_RESPONDERS = b"NATS/1.0 503"
_FRAME = b"NATS/1.0\r\nMesh-Frame: "
_FRAME_AT = len(_FRAME)
_SEQ = b"Mesh-Seq: "
_SEQ_LEN = len(_SEQ)
_log = logging.getLogger(__name__)

Answer = tuple[bytes, bytes] | MeshError


class Waiter(ABC):
    """Something that waits for replies under one token.

    Attributes:
        subject: where the request went, as it was published.
        wake: loop time at which ``check`` wants to run.
        sent: number of the message (``WireClient.send``).
    """

    __slots__ = ("mux", "sent", "subject", "token", "wake")

    def __init__(self, mux: "ReplyMux", subject: str, wake: float) -> None:
        self.mux = mux
        self.subject = subject
        self.wake = wake
        self.sent = 0
        self.token = b""

    @abstractmethod
    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one reply."""

    @abstractmethod
    def check(self, now: float) -> None:
        """Called once ``wake`` has passed."""

    @abstractmethod
    def fail(self, error: MeshError) -> None:
        """End the wait with an error."""

    @property
    def acknowledged(self) -> bool:
        """True once a runner said it has the call."""
        return False


class _Awaited(Waiter):
    """A waiter with a task behind it."""

    __slots__ = ("future",)

    def __init__(self, mux: "ReplyMux", subject: str, wake: float) -> None:
        super().__init__(mux, subject, wake)
        self.future: asyncio.Future[Answer] = mux.loop.create_future()

    async def answer(self) -> tuple[bytes, bytes]:
        """``(payload, header block)`` of the last reply.

        Raises:
            MeshError: as the waiter ended.
        """
        answer = await self.future
        if isinstance(answer, MeshError):
            raise answer
        return answer

    def fail(self, error: MeshError) -> None:
        """End the wait with an error."""
        # A result, not an exception: a cancelled task would leave it "never retrieved".
        self.mux.forget(self)
        if not self.future.done():
            self.future.set_result(error)


class PlainWaiter(_Awaited):
    """Waits for the one reply of a plain request."""

    __slots__ = ()

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one reply."""
        if block.startswith(_NO_RESPONDERS):
            self.fail(no_runner(self.subject))
            return
        self.mux.forget(self)
        if not self.future.done():
            self.future.set_result((payload, block))

    def check(self, now: float) -> None:
        """Look after deadlines."""
        self.fail(MeshError(ErrorKind.DEADLINE, "no answer within the time given"))


class CallWaiter(_Awaited):
    """Waits for the frames of a call; answered by ``end``.

    Attributes:
        instance: the runner that acknowledged, "" before.
        boot: its run, "" when it does not tell.
    """

    __slots__ = (
        "boot",
        "deadline",
        "expected",
        "heard",
        "instance",
        "on_frame",
        "request_id",
        "started",
        "tenant",
    )

    def __init__(
        self,
        mux: "ReplyMux",
        subject: str,
        *,
        deadline: float,
        tenant: str,
        request_id: str,
        on_frame: Callable[[bytes], None] | None,
    ) -> None:
        now = mux.loop.time()
        super().__init__(mux, subject, min(deadline, now + PROBE_AFTER_S))
        self.deadline = deadline
        self.started = now
        self.heard = now
        self.tenant = tenant
        self.request_id = request_id
        self.on_frame = on_frame
        self.expected = 0
        self.instance = ""
        self.boot = ""

    @property
    def acknowledged(self) -> bool:
        """True once a runner said it has the call."""
        return self.expected > 0

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one reply."""
        if block.startswith(_FRAME):
            end = block.find(b"\r\n", _FRAME_AT)
            at = end + 2
            if block.startswith(_SEQ, at):
                frame = block[_FRAME_AT:end]
                until = block.find(b"\r\n", at)
                if block[at + _SEQ_LEN : until].isdigit():
                    self._frame(frame, int(block[at + _SEQ_LEN : until]), payload, block)
                    return
        self._slow(payload, block)

    def _slow(self, payload: bytes, block: bytes) -> None:
        """Whatever did not write its frame headers first and in our order."""
        if block.startswith(_NO_RESPONDERS):
            self.fail(no_runner(self.subject))
            return
        headers = decode_headers(block) if block else {}
        frame = headers.get(Header.FRAME)
        if frame is None:
            self._terminal(payload, block, failed=Header.SERVICE_ERROR_CODE in headers)
            return
        seq = headers.get(Header.SEQ, "")
        self._frame(frame.encode(), int(seq) if seq.isdigit() else -1, payload, block)

    def _frame(self, frame: bytes, seq: int, payload: bytes, block: bytes) -> None:
        if seq != self.expected:
            # Even a terminal frame: its result may rest on a notification that never came.
            self.fail(MeshError(ErrorKind.LOST, "a frame of the answer was lost"))
            return
        self.expected = seq + 1
        if frame == b"end":
            self._terminal(payload, block, failed=False)
            return
        if frame == b"err":
            self._terminal(payload, block, failed=True)
            return
        self.heard = self.mux.loop.time()
        if frame == b"ack":
            self.instance, self.boot = self.mux.runner_of(block)
            if self.future.done():
                self.mux.cancel(self)
        elif frame == b"msg" and self.on_frame is not None and not self.future.done():
            try:
                self.on_frame(payload)
            except Exception:  # noqa: BLE001 - a broken listener must not end the call
                _log.exception("frame listener failed")

    def _terminal(self, payload: bytes, block: bytes, *, failed: bool) -> None:
        self.mux.forget(self)
        if self.future.done():
            return
        if failed:
            code = decode_headers(block).get(Header.SERVICE_ERROR_CODE)
            self.future.set_result(decode_error(payload, code))
        else:
            self.future.set_result((payload, block))

    def check(self, now: float) -> None:
        """Look after deadlines."""
        if self.future.done():  # cancelled before the ack: kept only to pass the cancel on
            if now >= min(self.deadline, self.started + START_BY_S + CLOCK_LEEWAY_S):
                self.mux.forget(self)
            self.wake = now + PROBE_AFTER_S
            return
        if now >= self.deadline:
            self.fail(MeshError(ErrorKind.DEADLINE, "the call exceeded its time"))
            if self.instance:
                self.mux.cancel(self)
            return
        if not self.acknowledged:
            # A runner refuses to begin after start-by, so nothing but silence can still come.
            # That it was never begun cannot be proven from here (reliability: start-by rows).
            limit = self.started + START_BY_S + CLOCK_LEEWAY_S
            if now >= limit:
                self.fail(
                    MeshError(
                        ErrorKind.DEADLINE,
                        "no runner took the call in time",
                        retry_after_s=START_BY_S,
                    )
                )
                return
            self.wake = min(self.deadline, now + PROBE_AFTER_S / 4)
            return
        if now - self.heard >= SILENCE_MAX_S:
            self.fail(MeshError(ErrorKind.LOST, "the runner fell silent"))
            return
        if self.instance:
            self.mux.probe(self.instance, self.tenant, now)
        self.wake = min(self.deadline, now + PROBE_AFTER_S / 4)


class Probe(Waiter):
    """One ping of an instance that owes answers; a timeout is repeated, 503 is death."""

    __slots__ = ("instance", "tenant", "tries")

    def __init__(self, mux: "ReplyMux", subject: str, instance: str, tenant: str) -> None:
        super().__init__(mux, subject, mux.loop.time() + PROBE_TIMEOUT_S)
        self.instance = instance
        self.tenant = tenant

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one reply."""
        self.mux.forget(self)
        if block.startswith(_NO_RESPONDERS):
            self.mux.instance_gone(self.instance, "")
        else:
            boot = decode_headers(block).get(BOOT, "") if block else ""
            self.mux.probed(self.instance)
            if boot:
                self.mux.instance_gone(self.instance, boot)

    def check(self, now: float) -> None:
        """Look after deadlines."""
        # Raced the kill, or the instance is frozen; only no-responders proves death.
        self.mux.forget(self)
        self.mux.probed(self.instance, again=True)

    def fail(self, error: MeshError) -> None:
        """End the wait with an error."""
        self.mux.forget(self)
        self.mux.probed(self.instance)


def no_runner(subject: str) -> MeshError:
    """The broker itself says that nobody serves the subject."""
    return MeshError(
        ErrorKind.NO_RUNNER, "nobody serves this at the moment", retry_after_s=1.0, internal=subject
    )
