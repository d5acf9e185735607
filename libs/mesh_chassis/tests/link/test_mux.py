"""Both ends of a port over a real one (a pseudo-terminal) and over a socket."""

import asyncio
import contextlib
import os
import random
import socket
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from mesh_chassis.link.addresses import LinkAddress
from mesh_chassis.link.dial import dialler
from mesh_chassis.link.frames import STREAMS_MAX, WINDOW
from mesh_chassis.link.mux import READ_LIMIT, HostMux
from mesh_chassis.link.port import PortTransport

WAIT_S = 5.0


class Port:
    """A pseudo-terminal: its slave is the guest's port, its master the host's side."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(self.master)
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self._slave = slave

    @asynccontextmanager
    async def host(self, on_stream: Callable[..., None]) -> AsyncIterator[HostMux]:
        mux = HostMux(on_stream)
        os.set_blocking(self.master, False)
        transport = PortTransport(os.dup(self.master), mux)
        try:
            yield mux
        finally:
            transport.close()
            await asyncio.sleep(0)

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def echoing(port: Port) -> AsyncIterator[HostMux]:
    tasks: set[asyncio.Task[None]] = set()
    async with port.host(lambda r, w: tasks.add(asyncio.create_task(echo(r, w)))) as mux:
        try:
            yield mux
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_bytes_come_back_over_a_port_whatever_their_number(port: Port) -> None:
    body = random.Random(3).randbytes(3 * WINDOW + 12345)
    async with asyncio.timeout(WAIT_S), echoing(port):
        reader, writer = await dialler(LinkAddress(scheme="serial", path=port.path))()
        writer.write(body)
        assert await reader.readexactly(len(body)) == body
        writer.close()
        await writer.wait_closed()


async def test_two_streams_share_one_port_and_the_last_one_lets_it_go(port: Port) -> None:
    dial = dialler(LinkAddress(scheme="serial", path=port.path))
    async with asyncio.timeout(WAIT_S), echoing(port) as mux:
        (reader, writer), (reader2, writer2) = await dial(), await dial()
        writer.write(b"one")
        writer2.write(b"two")
        assert await reader.readexactly(3) == b"one"
        assert await reader2.readexactly(3) == b"two"
        assert mux.streams == 2
        writer.close()
        writer2.close()
        await writer.wait_closed()
        await writer2.wait_closed()
        again, closing = await dial()  # opens the port once more
        closing.write(b"three")
        assert await again.readexactly(5) == b"three"
        assert mux.streams == 1
        closing.close()
        await closing.wait_closed()


async def test_no_more_streams_than_there_may_be_are_opened(port: Port) -> None:
    dial = dialler(LinkAddress(scheme="serial", path=port.path))
    async with asyncio.timeout(WAIT_S), echoing(port):
        streams = [await dial() for _ in range(STREAMS_MAX)]
        with pytest.raises(ConnectionRefusedError, match="at most 8"):
            await dial()
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()


async def test_a_reader_that_stalls_holds_back_its_own_stream_only(port: Port) -> None:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    dial = dialler(LinkAddress(scheme="serial", path=port.path))
    async with asyncio.timeout(WAIT_S), port.host(lambda r, w: accepted.put_nowait((r, w))):
        (_, stalled), (_, other) = await dial(), await dial()
        far = [await accepted.get(), await accepted.get()]
        far_stalled, far_other = far[0][0], far[1][0]
        body = bytes(2 * READ_LIMIT + WINDOW + 500_000)
        stalled.write(body)
        full = asyncio.create_task(stalled.drain())
        other.write(b"x" * 50_000)
        assert len(await far_other.readexactly(50_000)) == 50_000
        assert not full.done()  # the far reader holds its bound, the rest waits here
        assert len(await far_stalled.readexactly(len(body))) == len(body)
        await full
        for writer in (stalled, other):
            writer.close()
            await writer.wait_closed()


async def test_a_guest_finds_its_host_again_after_that_was_replaced(port: Port) -> None:
    dial = dialler(LinkAddress(scheme="serial", path=port.path))
    async with asyncio.timeout(WAIT_S):
        async with echoing(port):
            reader, writer = await dial()
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
        async with echoing(port):
            with pytest.raises(ConnectionError):  # the new host says that it knows no streams
                await reader.readexactly(1)
            reader, writer = await dial()
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            writer.close()
            await writer.wait_closed()


async def test_a_dial_ends_with_its_time_when_nobody_answers(port: Port) -> None:
    dial = dialler(LinkAddress(scheme="serial", path=port.path))
    for _ in range(2):  # the first attempt must not keep the port
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dial()


async def test_a_guest_that_never_reads_the_answers_it_asks_for_is_cut_off() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    lost = asyncio.Event()

    class Watched(HostMux):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async with asyncio.timeout(WAIT_S):
        await loop.connect_accepted_socket(lambda: Watched(lambda _r, _w: None), theirs)
        hostile = b"MESH-LINK-MUX\x01\r\n12345678" * 1000
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            while not lost.is_set():
                await loop.sock_sendall(ours, hostile)
                await asyncio.sleep(0)
        await lost.wait()
    ours.close()
