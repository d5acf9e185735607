"""The link proxy with a real broker under the rights of production."""

import asyncio
import contextlib
import json
import os
import tempfile
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from mcp_proto.errors import MeshError
from mesh_chassis.broker_config import new_nkey
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from vm_spawner.network import proxy as proxy_module
from vm_spawner.network.credential import NkeyCredential, UserCredential
from vm_spawner.network.proxy import LinkLimits, LinkProxy

WAIT_S = 10.0
CONNECT = b'CONNECT {"verbose":false,"headers":true,"protocol":1,"echo":true}\r\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def seed_of(broker: Broker, instance: str, service: str = "agent") -> bytes:
    return Path(broker.seed_for(service, instance)).read_bytes()


@asynccontextmanager
async def proxied(
    broker: Broker,
    folder: Path,
    instance: str = "agent-1",
    *,
    mux: bool = False,
    limits: LinkLimits | None = None,
) -> AsyncIterator[tuple[LinkProxy, str]]:
    proxy = LinkProxy(
        bus=BusConfig(urls=(broker.url,)),
        name=f"vm/{instance}",
        credential=NkeyCredential(seed_of(broker, instance)),
        limits=limits,
    )
    path = str(folder / f"{instance}.sock")
    await proxy.listen(path, mux=mux)
    try:
        yield proxy, path
    finally:
        await proxy.close()


@asynccontextmanager
async def guest_bus(address: str, instance: str = "agent-1") -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(urls=(address,)), service="agent", instance=instance)
    try:
        yield bus
    finally:
        await bus.close()


async def answer(message: Msg) -> None:
    await message.respond(message.data[::-1])


async def test_a_guest_without_credential_serves_calls_over_its_link(
    shared_broker: Broker, folder: Path, connect_bus: Callable[..., Awaitable[Bus]]
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    async with proxied(shared_broker, folder) as (proxy, path), guest_bus(f"unix:{path}") as guest:
        await guest.subscribe("mesh.v1.demo-tenant.call.linked.>", answer, queue="w")
        reply = await gateway.request(
            "mesh.v1.demo-tenant.call.linked.x", b"hello", timeout_s=WAIT_S
        )
        assert reply.payload == b"olleh"
        assert proxy.counts.connected == 1
        assert proxy.counts.messages >= 1
        # Neither nonce nor addresses of the broker reached the guest.
        assert not {"nonce", "host", "port", "client_ip", "server_name"} & set(
            guest.client.server_info
        )


async def test_the_link_gives_the_rights_of_its_own_machine_and_no_others(
    shared_broker: Broker, folder: Path
) -> None:
    async with proxied(shared_broker, folder) as (_, path), guest_bus(f"unix:{path}") as guest:

        async def ignore(_: Msg) -> None: ...

        for foreign in (
            "_MESH.agent.agent-2.>",
            "_MESH.gateway.gateway-1.>",
            "mesh.v1.other.call.x.>",
            "mesh.v1.demo-tenant.inst.agent-2.>",
            "$KV.>",
            ">",
        ):
            with pytest.raises(MeshError) as caught:
                await guest.subscribe(foreign, ignore)
            assert caught.value.kind == "denied", foreign


async def test_who_a_guest_says_he_is_does_not_matter(shared_broker: Broker, folder: Path) -> None:
    """The seed of another user in the guest's own CONNECT is dropped; the link decides."""
    async with proxied(shared_broker, folder) as (_, path):
        other = BusConfig(
            urls=(f"unix:{path}",), nkey_seed_file=shared_broker.seed_for("operator", "operator")
        )
        # The guest's client has no nonce to sign, so it cannot even say it.
        with contextlib.suppress(MeshError):
            bus = await Bus.connect(other, service="agent", instance="agent-1")
            await bus.close()
        reader, writer = await asyncio.open_unix_connection(path)
        await reader.readline()
        writer.write(b'CONNECT {"user":"operator","pass":"x","name":"operator","verbose":true}\r\n')
        assert await reader.readline() == b"+OK\r\n"
        writer.write(b"SUB > 1\r\nPING\r\n")
        told = await reader.readuntil(b"PONG\r\n")
        assert b"Permissions Violation" in told
        writer.close()


async def test_large_bodies_take_their_own_connection_through_the_link(
    shared_broker: Broker, folder: Path, connect_bus: Callable[..., Awaitable[Bus]]
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    got: list[int] = []

    async def count(message: Msg) -> None:
        got.append(len(message.data))
        await message.respond(b"x" * 900_000)

    async with proxied(shared_broker, folder) as (_, path), guest_bus(f"unix:{path}") as guest:
        await guest.subscribe("mesh.v1.demo-tenant.call.large.>", count, queue="w")
        reply = await gateway.request(
            "mesh.v1.demo-tenant.call.large.x", b"y" * 900_000, timeout_s=WAIT_S
        )
        assert len(reply.payload) == 900_000
        assert got == [900_000]


async def test_a_guest_comes_back_when_the_broker_does(broker: Broker, folder: Path) -> None:
    async with proxied(broker, folder) as (proxy, path), guest_bus(f"unix:{path}") as guest:
        await broker.kill()
        await eventually(lambda: not guest.connected, timeout_s=WAIT_S)
        await broker.start()
        await eventually(lambda: guest.connected, timeout_s=WAIT_S)
        await guest.link.round_trip(WAIT_S)
        assert proxy.counts.connected >= 2


async def test_a_guest_comes_back_when_its_proxy_was_replaced(
    shared_broker: Broker, folder: Path
) -> None:
    async with proxied(shared_broker, folder) as (_, path):
        bus = await Bus.connect(
            BusConfig(urls=(f"unix:{path}",)), service="agent", instance="agent-1"
        )
    try:
        await eventually(lambda: not bus.connected, timeout_s=WAIT_S)
        await asyncio.to_thread(os.unlink, path)
        async with proxied(shared_broker, folder):
            await eventually(lambda: bus.connected, timeout_s=WAIT_S)
            await bus.link.round_trip(WAIT_S)
            await bus.close()
    finally:
        await bus.close()


async def test_a_renewed_credential_is_used_from_the_next_connection_on(
    shared_broker: Broker, folder: Path
) -> None:
    async with proxied(shared_broker, folder) as (proxy, path), guest_bus(f"unix:{path}") as guest:
        proxy.renew(UserCredential("nobody", "wrong"))
        await eventually(lambda: not guest.connected, timeout_s=WAIT_S)
        proxy.renew(NkeyCredential(seed_of(shared_broker, "agent-1")))
        await eventually(lambda: guest.connected, timeout_s=WAIT_S)


async def test_a_credential_that_the_broker_refuses_is_the_guests_failure(
    shared_broker: Broker, folder: Path
) -> None:
    seed, _ = new_nkey()
    proxy = LinkProxy(
        bus=BusConfig(urls=(shared_broker.url,)), name="x", credential=NkeyCredential(seed.encode())
    )
    await proxy.listen(str(folder / "x.sock"), mux=False)
    try:
        with pytest.raises(MeshError) as caught:
            await Bus.connect(
                BusConfig(urls=(f"unix:{folder}/x.sock",), connect_timeout_s=3),
                service="agent",
                instance="agent-1",
            )
        assert "authorization" in str(caught.value).lower()
    finally:
        await proxy.close()


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (b"PING\r\n", "not CONNECT"),
        (b"GET / HTTP/1.1\r\n\r\n", "not CONNECT"),
        (b"x" * 300_000 + b"\r\n", "endless first line"),
        (b"CONNECT " + b"x" * 5000 + b"\r\n", "endless first line"),
        (CONNECT + b"PING\r\n" + CONNECT, "second CONNECT"),
        (CONNECT + b"PUB a 5\r\nhelloCONNECT {}\r\n", "longer than its length"),
        (CONNECT + b"PUB a 99999999\r\n", "above the broker's limit"),
        (CONNECT + os.urandom(5000), ""),
    ],
)
async def test_hostile_bytes_end_the_stream_and_no_other(
    shared_broker: Broker, folder: Path, hostile: bytes, reason: str
) -> None:
    limits = LinkLimits(upstreams=3)
    async with (
        proxied(shared_broker, folder, limits=limits) as (proxy, path),
        guest_bus(f"unix:{path}") as good,
        asyncio.timeout(WAIT_S),
    ):
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(ConnectionError):
            writer.write(hostile)
            await writer.drain()
            await reader.read()  # until the proxy ends it
        writer.close()
        await eventually(lambda: proxy.counts.refused == 1, timeout_s=WAIT_S)
        assert reason in proxy.counts.reason
        await good.link.round_trip(WAIT_S)


async def test_a_guest_that_says_nothing_is_let_go(
    shared_broker: Broker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECT_S", 0.05)
    async with proxied(shared_broker, folder) as (proxy, path), asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_unix_connection(path)
        assert (await reader.read()).endswith(b"-ERR 'Parser Error'\r\n")
        writer.close()
        assert "no CONNECT" in proxy.counts.reason


async def test_a_slow_guest_gets_a_fresh_connection_to_the_broker(
    shared_broker: Broker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "FRESH_S", 0.0)
    async with proxied(shared_broker, folder) as (_, path), guest_bus(f"unix:{path}") as guest:
        await guest.link.round_trip(WAIT_S)


async def test_a_guest_gets_no_more_connections_than_it_may_have(
    shared_broker: Broker, folder: Path
) -> None:
    async with proxied(shared_broker, folder) as (proxy, path), asyncio.timeout(WAIT_S):
        writers = []
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(CONNECT + b"PING\r\n")
            await reader.readuntil(b"PONG\r\n")
            writers.append(writer)
        reader, third = await asyncio.open_unix_connection(path)
        assert await reader.read() == b"-ERR 'Parser Error'\r\n"
        assert proxy.open == 2
        for writer in (*writers, third):
            writer.close()


async def test_a_rate_holds_a_guest_back(shared_broker: Broker, folder: Path) -> None:
    limits = LinkLimits(messages_per_s=1000)
    async with (
        proxied(shared_broker, folder, limits=limits) as (_, path),
        asyncio.timeout(WAIT_S),
    ):
        reader, writer = await asyncio.open_unix_connection(path)
        started = asyncio.get_running_loop().time()
        writer.write(CONNECT + b"PUB mesh.v1.x 1\r\nx\r\n" * 200)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"PING\r\n")
        await reader.readuntil(b"PONG\r\n")
        assert asyncio.get_running_loop().time() - started >= 0.15
        writer.close()


async def test_the_socket_is_its_owners_alone(shared_broker: Broker, folder: Path) -> None:
    async with proxied(shared_broker, folder) as (_, path):
        assert (await asyncio.to_thread(os.stat, path)).st_mode & 0o777 == 0o600


# Over a port: a pseudo-terminal is the guest's, and this is what QEMU does with it.


@asynccontextmanager
async def machine_port(path: str) -> AsyncIterator[str]:
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    loop = asyncio.get_running_loop()
    os.set_blocking(master, False)
    reader, writer = await asyncio.open_unix_connection(path)
    pending = bytearray()

    def from_guest() -> None:
        with contextlib.suppress(BlockingIOError):
            writer.write(os.read(master, 65536))

    def push() -> None:
        with contextlib.suppress(BlockingIOError):
            while pending:
                del pending[: os.write(master, bytes(pending[:4096]))]
        if not pending:
            loop.remove_writer(master)

    async def to_guest() -> None:
        while data := await reader.read(65536):
            pending.extend(data)
            loop.add_writer(master, push)

    loop.add_reader(master, from_guest)
    task = asyncio.create_task(to_guest())
    try:
        yield f"serial:{os.ttyname(slave)}"
    finally:
        loop.remove_reader(master)
        loop.remove_writer(master)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        os.close(master)
        os.close(slave)


async def test_a_guest_serves_calls_over_a_port(
    shared_broker: Broker, folder: Path, connect_bus: Callable[..., Awaitable[Bus]]
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    async with (
        proxied(shared_broker, folder, mux=True) as (_, path),
        machine_port(path) as address,
        guest_bus(address) as guest,
    ):
        await guest.subscribe("mesh.v1.demo-tenant.call.ported.>", answer, queue="w")
        for body in (b"hello", b"z" * 700_000):
            reply = await gateway.request(
                "mesh.v1.demo-tenant.call.ported.x", body, timeout_s=WAIT_S
            )
            assert reply.payload == body[::-1]


async def test_a_guest_on_a_port_comes_back_when_the_broker_does(
    broker: Broker, folder: Path
) -> None:
    async with (
        proxied(broker, folder, mux=True) as (_, path),
        machine_port(path) as address,
        guest_bus(address) as guest,
    ):
        await broker.kill()
        await eventually(lambda: not guest.connected, timeout_s=WAIT_S)
        await broker.start()
        await eventually(lambda: guest.connected, timeout_s=WAIT_S)
        await guest.link.round_trip(WAIT_S)


def test_credentials_sign_as_the_broker_wants() -> None:
    seed, public = new_nkey()
    members = NkeyCredential(seed.encode()).members("nonce")
    assert members["nkey"] == public
    assert len(members["sig"]) == 86
    assert json.dumps(UserCredential("u", "p").members("")) == '{"user": "u", "pass": "p"}'
    with pytest.raises(ValueError, match="not an nkey"):
        NkeyCredential(b"SUgarbage")
