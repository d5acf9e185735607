import asyncio
import socket

import msgspec
import pytest

from mesh_agents.worker.frames import (
    FRAME_MAX,
    Channel,
    Done,
    Ping,
    Pong,
    host_decoder,
    pack,
    unpack,
    worker_decoder,
)
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.swarm.outcomes import Ended


def test_frames_survive_any_cut():
    data = pack(Ping(n=1)) + pack(Ping(n=2)) + b"\0"
    for size in range(1, len(data) + 1):
        buffer = bytearray()
        got: list[bytes] = []
        for at in range(0, len(data), size):
            buffer += data[at : at + size]
            got += unpack(buffer)
        assert [worker_decoder.decode(one) for one in got] == [Ping(n=1), Ping(n=2)]
        assert buffer == b"\0"


def test_frame_that_is_too_long_is_refused_on_both_sides():
    with pytest.raises(ValueError, match="bytes"):
        pack(Done(n=1, ended=Ended(status="ok", text="x" * FRAME_MAX)))
    with pytest.raises(ValueError, match="bytes"):
        unpack(bytearray((FRAME_MAX + 1).to_bytes(4)))


def test_what_the_other_side_may_not_say_is_not_read():
    with pytest.raises(msgspec.ValidationError):
        host_decoder.decode(msgspec.json.encode(Ping(n=1)))
    for data in (b"", b"nonsense", b"{}", b'{"f":"done"}', b'{"f":"pong","n":"x"}'):
        with pytest.raises(msgspec.DecodeError):
            host_decoder.decode(data)


async def test_channel_gives_frames_and_ends_once():
    near, far = socket.socketpair()
    heard: list[bytes] = []
    ends: list[str] = []
    channel = Channel(heard.append, ends.append)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: channel, sock=near)
    far.sendall(pack(Pong(n=7)))
    await eventually(lambda: heard)
    assert host_decoder.decode(heard[0]) == Pong(n=7)
    channel.send(Ping(n=8))
    far.settimeout(2)
    assert unpack(bytearray(await asyncio.to_thread(far.recv, 100))) != []
    far.sendall((FRAME_MAX + 1).to_bytes(4))
    await eventually(lambda: ends)
    channel.send(Ping(n=9))
    channel.end()
    assert len(ends) == 1
    far.close()
