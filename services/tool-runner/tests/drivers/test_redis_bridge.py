"""The Redis bridge between a real broker and a real Redis."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from tests.redis_peer import RedisPeer, running_redis

from mcp_proto.redis_bridge import RedisBridgeTable
from mesh_chassis.bus.connection import Bus
from mesh_chassis.health import Status
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import LimitsConfig, StorageConfig
from tool_runner.drivers import opening, redis_bridge
from tool_runner.drivers.redis_bridge import RedisBridge
from tool_runner.drivers.storage import Event

ConnectBus = Callable[..., Awaitable[Bus]]
TENANT = "acme"

pytestmark = pytest.mark.usefixtures("provision")


@pytest.fixture
def peer(tmp_path: Path):
    with running_redis(tmp_path, "pass-1") as one:
        yield one


class Rig:
    """Bridges on runners of their own, and a client of Redis."""

    def __init__(self, connect: ConnectBus, peer: RedisPeer) -> None:
        self.connect = connect
        self.peer = peer
        self.counts: Counter[tuple[str, str]] = Counter()
        self.bridges: list[RedisBridge] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.stores: list[opening.Stores] = []
        self.redis = Redis(port=peer.port, password="pass-1")

    async def bridge(self, *, wait: bool = True, **more: object) -> RedisBridge:
        fields = {"enabled": True, "port": self.peer.port, "tenant": TENANT, **more}
        bus = await self.connect("tool-runner", f"runner-{len(self.bridges) + 1}")
        stores = opening.open_jetstream(bus, StorageConfig(), LimitsConfig())
        made = RedisBridge(
            bus,
            stores.events,
            RedisBridgeTable(**fields),  # type: ignore[arg-type]
            password=lambda: "pass-1",
            count=lambda way, outcome: self.counts.update([(way, outcome)]),
        )
        self.bridges.append(made)
        self.stores.append(stores)
        self.tasks.append(asyncio.create_task(made.run()))
        if wait:
            await eventually(lambda: made._connected, timeout_s=10)
        return made

    async def events(self, at_least: int = 0) -> list[Event]:
        found: list[Event] = []

        async def there() -> bool:
            page = await self.stores[0].events.read(TENANT, "", 0, 1000)
            found[:] = page.events
            return len(found) >= at_least

        await eventually(there, timeout_s=10)
        return found

    async def send(self, topic: str, data: object, source: str = "ann") -> None:
        body = json.dumps(data).encode()
        await self.stores[0].events.send(TENANT, topic, body, source)

    @contextlib.asynccontextmanager
    async def hearing(
        self, pattern: str
    ) -> AsyncIterator[Callable[[], Awaitable[tuple[str, str]]]]:
        pubsub: PubSub = self.redis.pubsub()
        await pubsub.psubscribe(pattern)
        await pubsub.get_message(timeout=5)

        async def heard() -> tuple[str, str]:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
            assert message is not None
            return message["channel"].decode(), message["data"].decode()

        try:
            yield heard
        finally:
            await pubsub.aclose()

    async def end(self, at: int) -> None:
        self.tasks[at].cancel()
        await asyncio.wait([self.tasks[at]])

    async def close(self) -> None:
        for at in range(len(self.tasks)):
            await self.end(at)
        for one in self.stores:
            await one.close()
        await self.redis.aclose()


@pytest.fixture
async def rig(broker: object, connect_bus: ConnectBus, peer: RedisPeer) -> AsyncIterator[Rig]:
    one = Rig(connect_bus, peer)
    try:
        yield one
    finally:
        await one.close()


async def test_messages_become_events_of_the_tenant_and_do_not_go_back(rig: Rig) -> None:
    await rig.bridge(subscribe_channels=("tasks:*", "mcp:tasks:high"))
    async with rig.hearing("mcp:*") as heard:
        await rig.redis.publish("mcp:tasks:high", '{"id": 1}')
        await rig.redis.publish("mcp:other", "unheard")
        await rig.redis.publish("mcp:tasks:low", "plain text")
        events = await rig.events(2)
        assert [(one.topic, json.loads(bytes(one.data))) for one in events] == [
            ("tasks:high", {"id": 1}),
            ("tasks:low", {"text": "plain text"}),
        ]
        assert events[0].source == f"redis:127.0.0.1:{rig.peer.port}"
        assert [(await heard())[0] for _ in range(3)] == [
            "mcp:tasks:high",
            "mcp:other",
            "mcp:tasks:low",
        ]
        # The next that Redis carries is this, not a copy of what came from it.
        await rig.send("end", None)
        assert await heard() == ("mcp:end", "null")


async def test_events_are_published_and_their_echo_is_no_event(rig: Rig) -> None:
    await rig.bridge(subscribe_channels=("*",))
    async with rig.hearing("mcp:*") as heard:
        for n in range(5):
            await rig.send("tasks:done", {"n": n})
        assert [await heard() for _ in range(5)] == [
            ("mcp:tasks:done", json.dumps({"n": n})) for n in range(5)
        ]
        # Equal to one of ours, but somebody else's: an event like any other.
        await rig.redis.publish("mcp:tasks:done", '{"n": 0}')
        await rig.redis.publish("mcp:last", "1")
        events = await rig.events(7)
        assert [one.source[:5] for one in events] == ["ann"] * 5 + ["redis"] * 2


async def test_of_two_runners_one_bridges_and_the_other_takes_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bridge, "LEASE_S", 2.0)
    monkeypatch.setattr(redis_bridge, "_PLACE_S", 0.0)
    await rig.bridge(subscribe_channels=("in",))
    second = await rig.bridge(subscribe_channels=("in",), wait=False)
    async with rig.hearing("mcp:out") as heard:
        await rig.redis.publish("mcp:in", "1")
        await rig.send("out", 1)
        assert await heard() == ("mcp:out", "1")
        assert [one.topic for one in await rig.events(2)].count("in") == 1
        await eventually(lambda: not second._connected and second.status is Status.HEALTHY)
        await rig.end(0)
        # Sent while nobody bridges: the next holder goes on where the last one stood.
        await rig.send("out", 2)
        assert await heard() == ("mcp:out", "2")
        await rig.redis.publish("mcp:in", "2")
        assert [one.topic for one in await rig.events(4)].count("in") == 2


async def test_redis_that_goes_away_and_comes_back_is_bridged_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bridge, "_BACKOFF_MAX_S", 0.5)
    bridge = await rig.bridge(subscribe_channels=("*",))
    rig.peer.stop()
    await eventually(lambda: bridge.status is Status.DEGRADED, timeout_s=10)
    await rig.send("while-away", 1)
    rig.peer.start()
    async with rig.hearing("mcp:*") as heard:
        await eventually(lambda: bridge.status is Status.HEALTHY, timeout_s=10)
        await rig.send("after", 2)
        channels = {(await heard())[0]}
        if channels == {"mcp:while-away"}:
            channels.add((await heard())[0])
        assert "mcp:after" in channels
        await rig.redis.publish("mcp:back", "3")
        assert (await rig.events(3))[-1].topic == "back"


async def test_redis_that_is_not_there_or_refuses_harms_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    bridge = await rig.bridge(port=1, wait=False)
    await eventually(lambda: "redis bridge:" in caplog.text, timeout_s=10)
    assert bridge.status is Status.DEGRADED
    await rig.send("kept", 1)
    assert len(await rig.events(1)) == 1
    await rig.end(0)
    caplog.clear()
    bridge = await rig.bridge(username="nobody", wait=False)
    await eventually(lambda: "AuthenticationError" in caplog.text, timeout_s=10)
    assert "pass-1" not in caplog.text


async def test_heartbeat_is_published_on_the_prefix(rig: Rig) -> None:
    async with rig.hearing("lab:heartbeat") as heard:
        await rig.bridge(
            channel_prefix="lab:", publish_heartbeat=True, heartbeat_interval_seconds=1,
            subscribe_channels=("*",),
        )  # fmt: skip
        channel, body = await heard()
        beat = json.loads(body)
        assert (channel, beat["agent"], beat["status"]) == ("lab:heartbeat", "runner-1", "healthy")
        await heard()
    assert await rig.events() == []


async def test_flood_is_dropped_above_the_bound_and_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bridge, "INBOX_MAX", 10)
    await rig.bridge(subscribe_channels=("*",), publish_events=False)
    async with rig.redis.pipeline(transaction=False) as pipe:
        for n in range(500):
            pipe.publish("mcp:n", str(n))
        await pipe.execute()
    await rig.redis.publish("mcp:big", b"x" * 300_000)
    await eventually(lambda: sum(rig.counts.values()) == 501, timeout_s=10)
    assert rig.counts["in", "dropped"] > 1
    kept = [json.loads(bytes(one.data)) for one in await rig.events(rig.counts["in", "ok"])]
    assert kept == sorted(kept)
    assert len(kept) == rig.counts["in", "ok"]
