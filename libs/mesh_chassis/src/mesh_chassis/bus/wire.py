"""Adapter over nats-py: messages straight to sync callbacks, writes coalesced, no ghosts.

The only module that touches nats-py internals (pinned to 2.16; tests/bus/test_wire.py guards the
names used). Reasons, measured with 64 calls in flight (report of the first benchmark):

* nats-py hands every message to a queue and a task per subscription, and parses with a chain of
  regular expressions; routes here are called from the parser, one ``find`` per message.
* nats-py flushes through a queue and a future per publish; here one write per loop iteration.
* nats-py buffers publishes while disconnected and sends them after the reconnect, when their
  callers have long given up; here nothing is accepted unless connected and the rest is dropped.
* A cancelled ``flush`` kills its read loop, and closing waits for a peer that no longer reads.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import ParseResult

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import command
from nats.protocol.parser import MAX_CONTROL_LINE_SIZE, Parser

from mesh_chassis.link.dial import Dial

__all__ = ["DirectRoute", "WireClient"]

Route = Callable[[bytes, bytes, bytes, bytes], None]
"""``(subject, reply, payload, header block)``, called from the parser: must not block or raise."""

_CANCEL_AGAIN_S = 0.05
_MESSAGES = frozenset((b"MSG", b"HMSG"))
_log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
"""One read of the socket: a claim-check chunk with its frame fits twice."""
CONGESTED_BYTES = 1024 * 1024
"""Unsent bytes from which ``room`` makes writers wait: far below what the broker holds for us."""


class DirectRoute(Subscription):
    """A subscription whose messages go to a sync callback, without queue and task."""

    @property
    def sid(self) -> int:
        """Subscription id."""
        return self._id


class _AbortingTransport(TcpTransport):
    """TCP with larger reads; ``close`` never waits for a peer that stopped reading.

    Args:
        dial: opens what carries the connection instead of TCP; None = TCP to the URL.
    """

    def __init__(self, dial: Dial | None = None) -> None:
        super().__init__()
        self._dial = dial

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.abort()  # nats-py forgets the socket of an attempt that was refused
        if self._dial is None:
            await super().connect(uri, READ_BYTES, connect_timeout)
            return
        async with asyncio.timeout(connect_timeout):
            reader, writer = await self._dial()
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    async def read(self, buffer_size: int) -> bytes:
        return await super().read(READ_BYTES)

    def __bool__(self) -> bool:
        return True  # nats-py replaces a transport that is not connected yet

    @property
    def unsent(self) -> int:
        writer = self._io_writer
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Drop the connection, whatever is unsent."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    def close(self) -> None:
        if self.unsent:
            self.abort()
        else:
            super().close()

    async def wait_closed(self) -> None:
        with contextlib.suppress(OSError):  # aborted or reset is closed all the same
            await super().wait_closed()


class _DirectParser(Parser):
    """Parses ``MSG`` and ``HMSG`` by position; every other line goes the way of nats-py."""

    nc: "WireClient"

    def reset(self) -> None:
        super().reset()
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = 0
        self._generation = getattr(self, "_generation", 0) + 1

    async def parse(self, data: bytes = b"") -> None:
        """Consume ``data``; keeps an incomplete rest."""
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return  # a large body arrives in pieces: joined once, not per read
            data = b"".join(self._pieces)
            self._pieces.clear()
        generation = self._generation
        pos, end = 0, len(data)
        self._wanted = 0
        while pos < end:
            eol = data.find(b"\r\n", pos)
            if eol < 0:
                break
            words = data[pos:eol].split()
            if words and words[0] in _MESSAGES:
                stop = _size(words[-1]) + eol + 2
                if stop + 2 > end:
                    self._wanted = stop + 2 - pos
                    break
                slow = self._dispatch(words, data, eol + 2, stop)
                pos = stop + 2
                if slow is None:
                    continue
                await slow
            else:
                await self._control(data[pos : eol + 2])
                pos = eol + 2
            if self._generation != generation:
                return  # disconnected meanwhile: the rest belongs to the old connection
        if pos < end:
            self._keep(data[pos:])

    def _keep(self, rest: bytes) -> None:
        self._pieces.append(rest)
        self._held = len(rest)
        if self._held > MAX_CONTROL_LINE_SIZE and not self._wanted:
            raise errors.ProtocolError("endless control line")

    def _dispatch(
        self, words: list[bytes], data: bytes, start: int, stop: int
    ) -> Coroutine[Any, Any, None] | None:
        """Give a message to its route; for others, what is left to await."""
        if words[0] == b"HMSG":
            body, with_reply = start + _size(words[-2]), 6
        else:
            body, with_reply = start, 5
        if not with_reply - 1 <= len(words) <= with_reply:
            raise errors.ProtocolError("malformed message line")
        reply = words[3] if len(words) == with_reply else b""
        route = self.nc.routes.get(words[2])
        if route is None:
            sid = _size(words[2])
            return self.nc.deliver(sid, words[1], reply, data[body:stop], data[start:body])
        try:
            route(words[1], reply, data[body:stop], data[start:body])
        except Exception:  # noqa: BLE001 - would end the read loop, and with it the connection
            _log.exception("route of %r failed", words[1])
        return None

    async def _control(self, line: bytes) -> None:
        await super().parse(line)
        if self.buf:
            raise errors.ProtocolError("unknown control line")


def _size(word: bytes) -> int:
    if not word.isdigit():
        raise errors.ProtocolError("malformed message line")
    return int(word)


class WireClient(Client):
    """A nats-py client with direct routes and coalesced writes.

    Attributes:
        routes: callbacks of direct routes by subscription id, as the broker writes it.
        sent: messages accepted for sending so far.
        written: messages handed to the socket so far; what lies between was never sent.
        congested: True while the socket holds more than ``CONGESTED_BYTES``.

    Args:
        dial: opens what carries the connection instead of TCP; None = TCP to the URL.
    """

    def __init__(self, dial: Dial | None = None) -> None:
        super().__init__()
        self.routes: dict[bytes, Route] = {}
        self.sent = 0
        self.written = 0
        self.congested = False
        self._ps = _DirectParser(self)
        self._socket = _AbortingTransport(dial)
        self._transport = self._socket
        self._armed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._afterwards: list[Callable[[], None]] = []

    @property
    def server_info(self) -> dict[str, Any]:
        """The broker's INFO."""
        return self._server_info

    def send(self, subject: str, reply: str, payload: bytes, block: bytes) -> int:
        """Queue one message; all of a loop iteration leave in one write.

        The caller has checked connection, sizes and subject.

        Args:
            subject: where to.
            reply: reply subject, "" for none.
            payload: body.
            block: encoded header block, b"" for none.

        Returns:
            Number of the message, to compare with ``written`` after a disconnect.
        """
        if block:
            line = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
            self._pending.append(b"%b%b%b\r\n" % (line.encode(), block, payload))
        else:
            line = f"PUB {subject} {reply} {len(payload)}\r\n"
            self._pending.append(b"%b%b\r\n" % (line.encode(), payload))
        self.sent += 1
        if not self._armed:
            self._arm()
        return self.sent

    def after_write(self, then: Callable[[], None]) -> None:
        """Run ``then`` once everything queued so far was handed to the socket."""
        self._afterwards.append(then)
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        if self._loop is None:
            # Asked for once: it is a system call on Python 3.11.
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self.write_out)

    def write_out(self) -> None:
        """Hand everything queued to the socket, or drop it when there is no connection."""
        self._armed = False
        pending, self._pending = self._pending, []
        self._pending_data_size = 0
        if pending and self._transport is not None and self.is_connected:
            try:
                self._transport.write(b"".join(pending) if len(pending) > 1 else pending[0])
            except RuntimeError:
                pass  # uvloop: closed under us, which the reader will say; calls below still begin
            else:
                self.written = self.sent
                if self._socket.unsent > CONGESTED_BYTES:
                    self.congested = True
        if self._afterwards:
            afterwards, self._afterwards = self._afterwards, []
            for then in afterwards:
                then()

    async def room(self) -> None:
        """Wait until the socket has taken what it holds."""
        self.write_out()
        if self._transport is not None and self.is_connected:
            await self._transport.drain()
        self.congested = False

    def drop_unsent(self) -> None:
        """Forget what was queued but never written: after a reconnect it would be a ghost."""
        self._pending.clear()
        self._pending_data_size = 0
        self.congested = False
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            pong.cancel()  # its answer was on the lost connection

    async def add_route(self, subject: str, queue: str, route: Route) -> DirectRoute:
        """Subscribe; messages go to ``route`` from within the parser."""
        self._sid += 1
        subscription = DirectRoute(self, self._sid, subject, queue=queue, pending_msgs_limit=1)
        self._subs[self._sid] = subscription
        self.routes[b"%d" % self._sid] = route
        await self._send_command(command.sub_cmd(subject, queue, self._sid))
        await self._flush_pending()
        return subscription

    async def unsubscribe_route(self, route: DirectRoute) -> None:
        """End interest; what is under way still arrives until ``forget_route``."""
        if self.is_connected:
            await self._send_unsubscribe(route.sid)

    def forget_route(self, route: DirectRoute) -> None:
        """Drop whatever still arrives, and do not subscribe again after a reconnect."""
        self._subs.pop(route.sid, None)
        self.routes.pop(b"%d" % route.sid, None)

    async def shut(self) -> None:
        """Close for good, also in the middle of a reconnect.

        ``wait_for`` of Python 3.11 can swallow a cancel; a reconnect that goes on after ``close``
        would be a connection that nobody knows.
        """
        reconnect = self._reconnection_task
        while reconnect is not None and not reconnect.done():
            reconnect.cancel()
            await asyncio.wait({reconnect}, timeout=_CANCEL_AGAIN_S)
        await self.close()

    async def ping(self) -> "asyncio.Future[bool]":
        """Send a PING; the future is resolved by the PONG, a proof that the broker works."""
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        return pong

    async def deliver(
        self, sid: int, subject: bytes, reply: bytes, payload: bytes, block: bytes
    ) -> None:
        """Hand a message to a stock subscription (JetStream, watches)."""
        await self._process_msg(sid, subject, reply, payload, block)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Publish of the stock interface (JetStream uses it); refuses unless connected."""
        if not self.is_connected:
            raise errors.ConnectionReconnectingError
        await super().publish(subject, payload, reply, headers)

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        self._pending.insert(0, cmd) if priority else self._pending.append(cmd)
        self._pending_data_size += len(cmd)
        if self._pending_data_size > CONGESTED_BYTES:
            await asyncio.wait_for(self.room(), self._flush_timeout)

    async def _flush_pending(self, force_flush: bool = False) -> None:
        if not self._armed:
            self._arm()

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        self.write_out()  # a PONG must prove everything queued before its PING
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        if self._transport is not None:
            self._transport.write(b"PING\r\n")

    async def _process_pong(self) -> None:
        # The stock method sets the result of a cancelled future and so ends the read loop.
        self._pings_outstanding = 0
        self._pongs_received += 1
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)
