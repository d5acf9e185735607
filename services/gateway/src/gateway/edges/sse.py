"""Server-sent events, and the choice between them and one JSON answer.

The choice is made as late as possible: an answer is JSON with its real status unless a
notification comes first or 15 seconds pass. Then the stream begins, and the answer is its last
event. No event ids: they would promise a replay that an edge that may die cannot keep.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from mesh_chassis.clock import monotonic

__all__ = ["KEEP_ALIVE_S", "EventStream", "LateReply", "LateStarts", "Send", "respond"]

Message = Mapping[str, object]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

KEEP_ALIVE_S = 15.0
"""Silence after which a comment is sent, and after which a waiting answer becomes a stream."""
LOOKS = 15
"""Looks for late answers within ``KEEP_ALIVE_S``."""
QUEUED_MAX = 1_000
QUEUED_MAX_BYTES = 4 * 1024 * 1024
"""Notifications waiting for a slow reader; further ones are dropped, the answer never is."""

_STREAM = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


async def respond(
    send: Send,
    status: int,
    body: bytes = b"",
    headers: Headers = (),
    *,
    kind: bytes = b"application/json",
) -> None:
    """One whole answer; the content type is left out when it is empty."""
    sent = [(b"content-length", b"%d" % len(body)), *headers]
    if body:
        sent.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def event(message: bytes) -> bytes:
    """One JSON-RPC message as an event; raw line breaks of its JSON become blanks."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: message\ndata: " + message + b"\n\n"


class EventStream:
    """An open stream: events in, bytes out, comments in between."""

    def __init__(self, send: Send, headers: Headers = ()) -> None:
        self._send = send
        self._headers = tuple(headers)
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._ended = False

    def push(self, message: bytes, *, must: bool = False) -> None:
        """Queue one message; ``must`` = never dropped."""
        if self._ended:
            return
        if not must and (len(self._queue) >= QUEUED_MAX or self._queued_bytes > QUEUED_MAX_BYTES):
            return
        data = event(message)
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._wake.set()

    def end(self) -> None:
        """End after what is queued."""
        self._ended = True
        self._wake.set()

    def wake(self) -> None:
        """Let ``run`` look around (``check``)."""
        self._wake.set()

    async def run(self, check: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Send until the end.

        Args:
            check: asked whenever the stream wakes; False ends it.
        """
        start = {"type": "http.response.start", "status": 200}
        await self._send({**start, "headers": [*_STREAM, *self._headers]})
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue and not self._ended:
                timer = loop.call_later(KEEP_ALIVE_S, self._comment)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()
            self._wake.clear()
            if check is not None and not self._ended and not await check():
                self.end()
            queue, self._queue, self._queued_bytes = self._queue, [], 0
            if queue:
                body = b"".join(queue)
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
            if self._ended and not self._queue:
                await self._send({"type": "http.response.body", "body": b""})
                return

    def _comment(self) -> None:
        self._queue.append(b": keep-alive\n\n")
        self._wake.set()


class LateStarts:
    """Begins the streams of answers that take long: one timer for all requests, not one each."""

    def __init__(self) -> None:
        # In the order of their arrival, which is that of their times.
        self._waiting: dict[LateReply, float] = {}
        self._armed = False

    def add(self, reply: "LateReply") -> None:
        """Begin ``reply`` as a stream in ``KEEP_ALIVE_S``, unless it is removed before."""
        self._waiting[reply] = monotonic() + KEEP_ALIVE_S
        if not self._armed:
            self._armed = True
            # Asking for the loop costs a system call on Python 3.11: once here, not per request.
            asyncio.get_running_loop().call_later(KEEP_ALIVE_S / LOOKS, self._look)

    def remove(self, reply: "LateReply") -> None:
        """The answer is there, or began as a stream."""
        self._waiting.pop(reply, None)

    def _look(self) -> None:
        now = monotonic()
        for reply, at in tuple(self._waiting.items()):
            if at > now:
                break
            reply.begin()
        self._armed = bool(self._waiting)
        if self._armed:
            asyncio.get_running_loop().call_later(KEEP_ALIVE_S / LOOKS, self._look)


class LateReply:
    """The answer to one request, as JSON or as a stream.

    Args:
        starts: begins it as a stream when it takes long.
        send: of the ASGI request.
        streams: whether the client takes a stream.
        headers: put on the answer.
        whole: sends a JSON answer without headers at once; False = send it the long way.
    """

    __slots__ = ("_headers", "_send", "_starts", "_stream", "_task", "_whole", "streams")

    def __init__(
        self,
        starts: LateStarts,
        send: Send,
        *,
        streams: bool,
        headers: Headers = (),
        whole: Callable[[int, bytes], bool] | None = None,
    ) -> None:
        self._whole = whole
        self._starts = starts
        self._send = send
        self._headers = headers
        self.streams = streams
        self._stream: EventStream | None = None
        self._task: asyncio.Task[None] | None = None
        if streams:
            starts.add(self)

    def add_header(self, name: bytes, value: bytes) -> None:
        """Put one more header on the answer; only before it begins."""
        self._headers = (*self._headers, (name, value))

    def begin(self) -> None:
        """Answer with a stream from now on."""
        self._begin()

    def _begin(self) -> EventStream:
        if self._stream is None:
            self._starts.remove(self)
            self._stream = EventStream(self._send, self._headers)
            # Owned here: ``finish`` and ``abandon`` await it.
            self._task = asyncio.get_running_loop().create_task(self._stream.run())
        return self._stream

    def notice(self, message: bytes) -> None:
        """A notification of the request: the answer becomes a stream."""
        if self.streams:
            self._begin().push(message)

    def ask(self, message: bytes) -> None:
        """A request to the client: as ``notice``, and never dropped."""
        if self.streams:
            self._begin().push(message, must=True)

    async def finish(self, status: int, body: bytes) -> None:
        """The answer itself."""
        self._starts.remove(self)
        if self._stream is None or self._task is None:
            if self._headers or self._whole is None or not self._whole(status, body):
                await respond(self._send, status, body, self._headers)
            return
        self._stream.push(body, must=True)
        self._stream.end()
        await self._task

    async def drop(self) -> None:
        """There is nothing to answer with: somebody else does."""
        await self.abandon()

    async def abandon(self) -> None:
        """The client is gone: send nothing more."""
        self._starts.remove(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
