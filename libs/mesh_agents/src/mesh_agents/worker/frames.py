"""Messages between the host and the process of one agent: JSON behind a length of four bytes.

The socket pair is private to the two. What comes from the process is read like anything from
outside all the same: the code of users runs there.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias, cast

import msgspec

from mcp_proto.contracts.swarm import StepError
from mcp_proto.jsonrpc import ABSENT
from mesh_sdk.swarm.outcomes import Ended

__all__ = [
    "FRAME_MAX",
    "Answered",
    "Ask",
    "Channel",
    "Done",
    "Failed",
    "Hear",
    "Heard",
    "Init",
    "Ping",
    "Pong",
    "Progress",
    "Ready",
    "Run",
    "Stop",
    "ToHost",
    "ToWorker",
    "host_decoder",
    "pack",
    "unpack",
    "worker_decoder",
]

FRAME_MAX = 16 * 1024 * 1024
"""Longest frame either way; above, the other side is not what it should be."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="f"):
    """``n`` numbers runs, pings and letters; each is answered under its number."""


# From the host


class Init(_Frame, frozen=True, kw_only=True, tag="init"):
    """The first frame: what this process is.

    Attributes:
        agent: its id.
        kind: runtime module: ``builtin``, ``function``, ``command``, ``tool``, ``llm``.
        name: of the type.
        config: ``config`` of the spawn (JSON object).
        settings: of the runtime, from the host's configuration.
        workdir: directory for attempts.
    """

    agent: str
    kind: str
    name: str
    config: msgspec.Raw
    settings: msgspec.Raw = ABSENT
    workdir: str


class Run(_Frame, frozen=True, kw_only=True, tag="run"):
    """Do an attempt; fields as in ``WorkItem`` and ``StepInput``."""

    n: int
    task: str
    step: str
    attempt: int
    kind: str
    payload: msgspec.Raw
    idempotency: str = ""
    timeout_s: float
    answers: dict[str, msgspec.Raw] = {}
    state: msgspec.Raw = ABSENT


class Stop(_Frame, frozen=True, kw_only=True, tag="stop"):
    """Cancel an attempt; its ``Done`` says how that ended."""

    n: int


class Ping(_Frame, frozen=True, kw_only=True, tag="ping"):
    """Answer."""

    n: int


class Answered(_Frame, frozen=True, kw_only=True, tag="answered"):
    """The result of an ``Ask``, or why there is none."""

    call: int
    result: msgspec.Raw = ABSENT
    error: StepError | None = None


class Hear(_Frame, frozen=True, kw_only=True, tag="hear"):
    """A letter; fields as in ``Letter``."""

    n: int
    id: str
    sender: str
    type: str
    action: str = ""
    params: msgspec.Raw = ABSENT
    expect_reply: bool = False


# To the host


class Ready(_Frame, frozen=True, kw_only=True, tag="ready"):
    """The agent can work."""

    capabilities: tuple[str, ...] = ()
    slots: int = 1
    model_source: str = ""


class Failed(_Frame, frozen=True, kw_only=True, tag="failed"):
    """It cannot be what it was told to be; it ends."""

    message: str
    reason: str = "failed"


class Ask(_Frame, frozen=True, kw_only=True, tag="ask"):
    """An MCP request in the name of the submitter of an attempt.

    Attributes:
        n: the attempt.
        call: number of the request.
        method: ``tools/call`` or ``tools/list``.
        params: its params.
        questions: the call is the whole step: the tool may ask back, which the step passes on,
            and what it tells of its progress is the step's.
    """

    n: int
    call: int
    method: str
    params: msgspec.Raw
    questions: bool = False


class Progress(_Frame, frozen=True, kw_only=True, tag="progress"):
    """How far an attempt is."""

    n: int
    progress: float
    total: float | None = None
    message: str = ""


class Done(_Frame, frozen=True, kw_only=True, tag="done"):
    """How an attempt ended."""

    n: int
    ended: Ended


class Pong(_Frame, frozen=True, kw_only=True, tag="pong"):
    """It lives."""

    n: int


class Heard(_Frame, frozen=True, kw_only=True, tag="heard"):
    """What became of a letter; ``taken`` False = nobody takes letters here."""

    n: int
    taken: bool
    reply: msgspec.Raw = ABSENT
    error: StepError | None = None


ToWorker: TypeAlias = Init | Run | Stop | Ping | Answered | Hear
ToHost: TypeAlias = Ready | Failed | Ask | Progress | Done | Pong | Heard

worker_decoder: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
host_decoder: msgspec.json.Decoder[ToHost] = msgspec.json.Decoder(ToHost)
_encode = msgspec.json.Encoder().encode


def pack(frame: msgspec.Struct) -> bytes:
    """One frame.

    Raises:
        ValueError: it is too long.
    """
    body = _encode(frame)
    if len(body) > FRAME_MAX:
        raise ValueError(f"a frame has at most {FRAME_MAX} bytes")
    return len(body).to_bytes(4) + body


def unpack(buffer: bytearray) -> list[bytes]:
    """Take the complete frames off the front of ``buffer``.

    Raises:
        ValueError: a frame is announced that is too long.
    """
    frames: list[bytes] = []
    at = 0
    while len(buffer) - at >= 4:
        size = int.from_bytes(buffer[at : at + 4])
        if size > FRAME_MAX:
            raise ValueError(f"a frame of {size} bytes")
        if len(buffer) - at < 4 + size:
            break
        frames.append(bytes(buffer[at + 4 : at + 4 + size]))
        at += 4 + size
    del buffer[:at]
    return frames


class Channel(asyncio.Protocol):
    """One end of the socket, on an event loop.

    Args:
        heard: takes each frame, undecoded.
        closed: hears once that nothing more will come, and why ("" = the other side closed).
    """

    def __init__(self, heard: Callable[[bytes], None], closed: Callable[[str], None]) -> None:
        self._heard = heard
        self._closed = closed
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._unwritten: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    @property
    def unsent(self) -> int:
        """Bytes that the other side has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._buffer += data
        try:
            frames = unpack(self._buffer)
        except ValueError as error:
            self.end(str(error))
            return
        for frame in frames:
            if self._over:
                return
            self._heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self.end(str(exc) if exc else "")

    def send(self, frame: msgspec.Struct) -> None:
        """Send a frame; dropped when the other side is gone.

        Raises:
            ValueError: it is too long.
        """
        data = pack(frame)
        if self._transport is None or self._over:
            return
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(data)

    def _write(self) -> None:
        """All frames of one turn of the loop in one write."""
        unwritten, self._unwritten = self._unwritten, []
        if self._transport is not None and not self._over and unwritten:
            self._transport.write(b"".join(unwritten))

    def end(self, reason: str = "") -> None:
        """Close; what the other side has not read is dropped."""
        if self._over:
            return
        self._over = True
        if self._transport is not None:
            self._transport.abort()
        self._closed(reason)

    def finish(self) -> None:
        """Close once everything was written."""
        self._write()
        if self._transport is not None and not self._over:
            self._transport.close()
