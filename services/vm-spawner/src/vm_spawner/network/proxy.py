"""The link proxy: bytes of one machine to the broker and back, with a credential put in.

One machine, one proxy, one socket path: whoever comes over this path is this machine. Nothing
the guest sends names who it is; its CONNECT line is written anew here, and a second one ends the
connection. The broker is dialled only when the guest opens a stream, because it drops whoever
does not say who he is within two seconds.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.link.frames import STREAMS_MAX
from mesh_chassis.link.mux import READ_LIMIT, HostMux
from vm_spawner.network.credential import Credential
from vm_spawner.network.lines import (
    CONNECT_MAX,
    FromBroker,
    FromGuest,
    RefusedError,
    connect_line,
    guest_info,
    read_info,
)

__all__ = ["Counts", "LinkLimits", "LinkProxy"]

CONNECT_S = 20.0
"""How long a guest may take for its first line."""
DIAL_S = 5.0
FRESH_S = 1.0
"""An upstream that waited longer for the guest is dialled again: the broker gives two seconds."""
READ_BYTES = 64 * 1024
PAYLOAD_MAX = 8 * 1024 * 1024
QUIET_S = 0.1
"""A connection that carried nothing for so long is ended for its new credential …"""
RENEW_S = 30.0
"""… and after this also one that is never quiet."""
_log = logging.getLogger(__name__)


class LinkLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine may take of the broker.

    Attributes:
        upstreams: connections to the broker at once: one for calls, one for large bodies.
        bytes_per_s: towards the broker; 0 = no limit.
        messages_per_s: published; 0 = no limit.
    """

    upstreams: int = 2
    bytes_per_s: int = 0
    messages_per_s: int = 0


class Counts(msgspec.Struct, kw_only=True):
    """What passed; for ``vm_status`` and metrics.

    Attributes:
        connected: connections that the broker greeted and the guest answered.
        refused: streams that were ended for what the guest sent.
        to_broker: bytes. ``to_guest``: bytes.
        messages: published by the guest.
        reason: why the last one was refused.
    """

    connected: int = 0
    refused: int = 0
    to_broker: int = 0
    to_guest: int = 0
    messages: int = 0
    reason: str = ""


class LinkProxy:
    """The way of one machine to the broker.

    Args:
        bus: the broker's URLs and authorities; its credential is not used.
        name: connection name at the broker, whatever the guest says.
        credential: whom the machine is there.
        limits: see ``LinkLimits``.
        on_open: called when a connection of the guest stands; for timings.
    """

    def __init__(
        self,
        *,
        bus: BusConfig,
        name: str,
        credential: Credential,
        limits: LinkLimits | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        self._bus = bus
        self._name = name
        self._credential = credential
        self._limits = limits or LinkLimits()
        self._on_open = on_open
        self._listener: asyncio.Server | None = None
        self._carriers: set[HostMux] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._passes: set[_Pass] = set()
        self._dialled = 0
        self._closed = False
        self.counts = Counts()

    @property
    def open(self) -> int:
        """Connections of this machine at the broker."""
        return len(self._passes)

    async def listen(self, path: str, *, mux: bool) -> None:
        """Wait for the machine at ``path``, a Unix socket made here, for its owner only.

        Args:
            path: absolute.
            mux: the machine's streams come as frames over one port (``qemu``); else every
                connection is a stream.

        Raises:
            OSError: the path is taken or too long.
        """
        loop = asyncio.get_running_loop()
        if mux:
            self._listener = await loop.create_unix_server(
                lambda: _Carrier(self._carriers, self.accept), path
            )
        else:
            self._listener = await asyncio.start_unix_server(self.accept, path, limit=READ_LIMIT)
        await asyncio.to_thread(Path(path).chmod, 0o600)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One stream of the machine; returns at once."""
        if self._closed or len(self._streams) >= STREAMS_MAX:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    def renew(self, credential: Credential) -> None:
        """Use this credential from the next connection on; the present ones end when quiet.

        The guest connects again within a fraction of a second, as after any loss.
        """
        self._credential = credential
        for one in self._passes:
            one.end_when_quiet()

    async def close(self) -> None:
        """End every stream and the socket. Idempotent."""
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        for carrier in list(self._carriers):
            carrier.close()
        for task in list(self._streams):
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._connect(reader, writer)
        except RefusedError as error:
            self.counts.refused += 1
            self.counts.reason = str(error)
            _log.warning("link of %s: refused: %s", self._name, error)
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(b"-ERR 'Parser Error'\r\n")
        except (OSError, TimeoutError, EOFError, ssl.SSLError) as error:
            _log.info("link of %s: %s", self._name, error or type(error).__name__)
        finally:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._dialled >= self._limits.upstreams:
            raise RefusedError(f"more than {self._limits.upstreams} connections at once")
        self._dialled += 1
        upstream: _Upstream | None = None
        try:
            upstream = await _dial(self._bus)
            writer.write(guest_info(upstream.info))
            line = await _first_line(reader)
            if upstream.age() > FRESH_S:
                upstream.close()
                upstream = await _dial(self._bus)
            proof = self._credential.members(upstream.nonce)
            upstream.writer.write(connect_line(line, name=self._name, credential=proof))
            self.counts.connected += 1
            if self._on_open is not None:
                self._on_open()
            passing = _Pass(upstream, reader, writer, self._limits, self.counts)
            self._passes.add(passing)
            try:
                await passing.run()
            finally:
                self._passes.discard(passing)
        finally:
            self._dialled -= 1
            if upstream is not None:
                upstream.close()


class _Carrier(HostMux):
    """One connection of QEMU: the port of the machine."""

    def __init__(
        self,
        carriers: set[HostMux],
        on_stream: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
    ) -> None:
        super().__init__(on_stream)
        self._carriers = carriers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A port has one other side: an older connection is a machine monitor that is gone.
        for older in list(self._carriers):
            older.close()
        self._carriers.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._carriers.discard(self)
        super().connection_lost(exc)


class _Upstream:
    """A connection to the broker that has greeted."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: dict[str, object]
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.info = info
        self._since = asyncio.get_running_loop().time()

    @property
    def nonce(self) -> str:
        """To be signed; "" = none."""
        nonce = self.info.get("nonce", "")
        return nonce if isinstance(nonce, str) else ""

    @property
    def max_payload(self) -> int:
        """Largest body, in bytes."""
        largest = self.info.get("max_payload", 0)
        return min(largest, PAYLOAD_MAX) if isinstance(largest, int) else 0

    def age(self) -> float:
        """Seconds since the broker greeted."""
        return asyncio.get_running_loop().time() - self._since

    def close(self) -> None:
        """Close without waiting for what is unsent."""
        self.writer.transport.abort()


async def _dial(bus: BusConfig) -> _Upstream:
    """The first broker that greets.

    Raises:
        OSError: none does.
    """
    urls = random.sample(bus.urls, len(bus.urls))
    problem = "no broker is configured"
    for url in urls:
        try:
            async with asyncio.timeout(DIAL_S):
                return await _dial_one(url, bus.tls_ca_file)
        except (OSError, TimeoutError, EOFError, RefusedError) as error:
            problem = f"{type(error).__name__}: {error}"
    raise ConnectionError(f"no broker answers: {problem}")


async def _dial_one(url: str, authorities: str) -> _Upstream:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or 4222, limit=READ_LIMIT
    )
    try:
        info = read_info(await reader.readuntil(b"\r\n"))
        if parts.scheme == "tls" or info.get("tls_required") is True:
            context = ssl.create_default_context(cafile=authorities or None)
            await writer.start_tls(context, server_hostname=parts.hostname)
    except BaseException:
        writer.transport.abort()
        raise
    return _Upstream(reader, writer, info)


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(CONNECT_S):
            line = await reader.readuntil(b"\r\n")
    except TimeoutError:
        raise RefusedError(f"no CONNECT within {CONNECT_S:g} s") from None
    except asyncio.LimitOverrunError:
        raise RefusedError("an endless first line") from None
    if len(line) > CONNECT_MAX:
        raise RefusedError("an endless first line")
    return line


class _Pass:
    """Bytes of one connection, both ways, until one side ends."""

    def __init__(
        self,
        upstream: _Upstream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: LinkLimits,
        counts: Counts,
    ) -> None:
        self._upstream = upstream
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._counts = counts
        self._moved = 0
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Copy until either side closes, or it is to end.

        Raises:
            RefusedError: the guest sent what may not pass.
        """
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._to_broker()),
                    group.create_task(self._to_guest()),
                    group.create_task(self._until_quiet()),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except* RefusedError as several:
            raise RefusedError(str(several.exceptions[0])) from None
        except* (OSError, EOFError):
            pass

    def end_when_quiet(self) -> None:
        """End at the next moment at which nothing passes."""
        self._ending.set()

    async def _to_broker(self) -> None:
        check = FromGuest(self._upstream.max_payload)
        writer = self._upstream.writer
        while data := await self._reader.read(READ_BYTES):
            before = check.messages
            passed = check.feed(data)
            if passed:
                self._moved += 1
                self._counts.to_broker += len(passed)
                self._counts.messages += check.messages - before
                writer.write(passed)
                await writer.drain()
            await self._keep_rate(len(data), check.messages - before)

    async def _keep_rate(self, size: int, messages: int) -> None:
        pause = 0.0
        if self._limits.bytes_per_s:
            pause = size / self._limits.bytes_per_s
        if self._limits.messages_per_s:
            pause = max(pause, messages / self._limits.messages_per_s)
        if pause:
            await asyncio.sleep(pause)

    async def _to_guest(self) -> None:
        check = FromBroker()
        while data := await self._upstream.reader.read(READ_BYTES):
            self._moved += 1
            self._counts.to_guest += len(data)
            self._writer.write(check.feed(data))
            await self._writer.drain()

    async def _until_quiet(self) -> None:
        await self._ending.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RENEW_S):
                moved = -1
                while moved != self._moved:
                    moved = self._moved
                    await asyncio.sleep(QUIET_S)
