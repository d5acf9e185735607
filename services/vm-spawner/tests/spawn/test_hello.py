"""The handshake with a guest that may send any bytes."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto.errors import MeshError
from vm_spawner.spawn.hello import Control, Go

GO = Go(
    vm_id="vm-1",
    tenant="acme",
    prefix="mesh.v1.acme",
    now=1.5,
    entropy="00" * 32,
    config=msgspec.Raw(b'{"a":1}'),
)


class Guest:
    def __init__(self, path: str) -> None:
        self.path = path
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        return reader, writer


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Control, Guest]]:
    with tempfile.TemporaryDirectory(prefix="vm") as folder:
        control, guest = Control(), Guest(str(Path(folder) / "ctl.sock"))
        await control.listen(guest.path)
        yield control, guest
        for writer in guest.writers:
            writer.close()
        await control.close()


async def test_guest_gets_its_identity_and_says_ready(pair: tuple[Control, Guest]) -> None:
    control, guest = pair
    reader, writer = await guest.connect()
    writer.write(b'{"type":"hello","parked":true,"image":"sha256:1","more":2}\n')
    async with asyncio.timeout(5):
        hello = await control.hello()
        assert hello.parked
        await control.go(GO)
        said = json.loads(await reader.readline())
        assert said["type"] == "go"
        assert (said["vmId"], said["tenant"], said["config"]) == ("vm-1", "acme", {"a": 1})
        writer.write(b'{"type":"ready"}\n')
        await control.ready()
        assert await control.stop()
        assert json.loads(await reader.readline()) == {"type": "stop"}


async def test_go_carries_no_credential() -> None:
    said = msgspec.json.decode(msgspec.json.encode(GO))
    assert set(said) == {"type", "vmId", "tenant", "prefix", "now", "entropy", "config"}


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT {}\n",
        b"[]\n",
        b'{"type":7}\n',
        b'{"type":"ready"}\n',
        b"\xff\xfe\n",
        b"x" * 200_000 + b"\n",
        b'{"type":"hello","image":"' + b"x" * 100_000 + b'"}\n',
    ],
)
async def test_guest_that_says_something_else_has_failed(
    pair: tuple[Control, Guest], line: bytes
) -> None:
    control, guest = pair
    _, writer = await guest.connect()
    writer.write(line)
    async with asyncio.timeout(5):
        with pytest.raises(MeshError) as caught:
            await control.hello()
    assert caught.value.data["phase"] == "hello"


async def test_flood_of_hellos_is_bounded(pair: tuple[Control, Guest]) -> None:
    control, guest = pair
    reader, writer = await guest.connect()
    writer.write(b'{"type":"hello"}\n' * 10_000)
    async with asyncio.timeout(5):
        await control.hello()
        assert await reader.read() == b""  # hung up on


async def test_second_boot_takes_the_place_of_the_first(pair: tuple[Control, Guest]) -> None:
    control, guest = pair
    reader, writer = await guest.connect()
    writer.write(b'{"type":"hello"}\n')
    async with asyncio.timeout(5):
        await control.hello()
        second_reader, second = await guest.connect()
        second.write(b'{"type":"hello"}\n')
        await control.hello()
        await control.go(GO)
        assert await reader.read() == b""
        assert b"vm-1" in await second_reader.readline()


async def test_guest_that_is_gone_is_not_asked_to_stop(pair: tuple[Control, Guest]) -> None:
    control, _ = pair
    assert not await control.stop()
    with pytest.raises(MeshError):
        await control.go(GO)
