"""Tests of gateway.sessions: copies of records that other gateways may change."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio

from gateway.sessions import Sessions, digest, well_formed
from mcp_proto.session import IDLE_MS, TOUCH_MS, SessionOwner, SessionRecord
from mesh_chassis.bucket import Conflict, Entry
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.clock import FakeClock
from mesh_chassis.testing.conditions import eventually

ANN = SessionOwner(tenant="acme", principal="ann", credential_id="key:k1")
BOB = SessionOwner(tenant="acme", principal="bob", credential_id="key:k2")


class Bucket:
    """The bucket, without a broker."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, int]] = {}
        self.revision = 0
        self.reads = 0

    async def get(self, key: str) -> Entry | None:
        self.reads += 1
        if key not in self.stored:
            return None
        value, revision = self.stored[key]
        return Entry(key=key, value=value, revision=revision, created_ms=0)

    async def put(self, key: str, value: bytes, *, ttl_s: float = 0) -> int:
        assert ttl_s >= 60
        self.revision += 1
        self.stored[key] = (value, self.revision)
        return self.revision

    async def update(self, key: str, value: bytes, revision: int, *, ttl_s: float = 0) -> int:
        found = self.stored.get(key, (b"", 0))[1]
        if found != revision:
            raise Conflict(found)
        return await self.put(key, value, ttl_s=ttl_s)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        self.stored.pop(key, None)


class World:
    """Two gateways on one bucket."""

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.clock = FakeClock()
        self.tasks = Tasks("test")
        self.one = Sessions(self.bucket, self.tasks, clock=self.clock)
        self.two = Sessions(self.bucket, self.tasks, clock=self.clock)

    def record(self) -> SessionRecord:
        now = self.clock.now_ms()
        return SessionRecord(
            tenant="acme",
            principal="ann",
            credential_id="key:k1",
            revision="2025-06-18",
            created_ms=now,
            last_ms=now,
        )

    def tell(self, to: Sessions) -> None:
        """What the watch would bring."""
        for key in (*self.bucket.stored, *to._held):
            value, revision = self.bucket.stored.get(key, (None, 0))
            to.feed(key, value, revision)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.tasks.close()


async def test_ids_are_long_random_and_stored_only_as_digests(world: World) -> None:
    ids = [await world.one.open(world.record()) for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(well_formed(one) and digest(one) in world.bucket.stored for one in ids)
    assert not any(one in key for one in ids for key in world.bucket.stored)


async def test_any_gateway_finds_a_session_once_and_then_holds_it(world: World) -> None:
    identifier = await world.one.open(world.record())
    for _ in range(3):
        assert (await world.two.find(identifier, ANN)) is not None
    assert world.bucket.reads == 1


async def test_a_session_is_found_by_its_owner_alone(world: World) -> None:
    identifier = await world.one.open(world.record())
    for sessions in (world.one, world.two):
        assert await sessions.find(identifier, BOB) is None
        assert await sessions.find(identifier[:-1] + "x", ANN) is None
    for odd in ("", "x" * 43 + "\n", "../" * 20, "é" * 43):
        assert await world.one.find(odd, ANN) is None


async def test_an_idle_session_is_over_whatever_the_bucket_holds(world: World) -> None:
    identifier = await world.one.open(world.record())
    world.clock.advance(IDLE_MS / 1000 + 1)
    assert await world.one.find(identifier, ANN) is None
    assert await world.two.find(identifier, ANN) is None


async def test_a_gateway_told_of_a_shorter_idle_time_renews_and_ends_by_it(world: World) -> None:
    strict = Sessions(world.bucket, world.tasks, idle_s=120, clock=world.clock)
    identifier = await strict.open(world.record())
    world.clock.advance(31)
    assert strict.held(identifier, ANN) is not None
    await eventually(lambda: world.bucket.revision == 2)  # a quarter of it has gone
    world.clock.advance(119)
    assert strict.held(identifier, ANN) is not None
    await eventually(lambda: world.bucket.revision == 3)
    world.clock.advance(120)
    assert await strict.find(identifier, ANN) is None


async def test_a_use_renews_the_record_in_the_background_once_a_minute(world: World) -> None:
    identifier = await world.one.open(world.record())
    world.clock.advance(TOUCH_MS / 1000 + 1)
    for _ in range(5):
        assert world.one.held(identifier, ANN) is not None
    await eventually(lambda: world.bucket.revision == 2)
    assert world.one.held(identifier, ANN) is not None
    stored = msgspec.json.decode(world.bucket.stored[digest(identifier)][0], type=SessionRecord)
    assert stored.last_ms == world.clock.now_ms()


async def test_a_renewal_never_brings_back_what_was_ended_elsewhere(world: World) -> None:
    identifier = await world.one.open(world.record())
    await world.two.find(identifier, ANN)
    await world.two.end(identifier)
    world.clock.advance(TOUCH_MS / 1000 + 1)
    world.one.held(identifier, ANN)
    await world.tasks.join(1.0)
    assert world.bucket.stored == {}
    world.tell(world.one)
    assert world.one.held(identifier, ANN) is None


async def test_an_end_is_told_to_whoever_holds_a_stream(world: World) -> None:
    identifier = await world.one.open(world.record())
    told: list[int] = []
    forget = world.one.on_end(identifier, lambda: told.append(1))
    await world.two.end(identifier)
    world.tell(world.one)
    assert told == [1]
    forget()
    forget()


async def test_a_change_survives_a_change_elsewhere(world: World) -> None:
    identifier = await world.one.open(world.record())
    await world.two.find(identifier, ANN)
    await world.one.change(identifier, lambda one: msgspec.structs.replace(one, log_level="info"))
    await world.two.change(
        identifier, lambda one: msgspec.structs.replace(one, subscriptions=("a:b",))
    )
    stored = msgspec.json.decode(world.bucket.stored[digest(identifier)][0], type=SessionRecord)
    assert (stored.log_level, stored.subscriptions) == ("info", ("a:b",))


async def test_a_change_returns_once_the_watches_told_of_it(world: World, monkeypatch) -> None:
    monkeypatch.setattr("gateway.sessions.NEWS_S", 30.0)
    identifier = await world.one.open(world.record())
    await world.two.find(identifier, ANN)
    change = asyncio.ensure_future(
        world.one.change(identifier, lambda one: msgspec.structs.replace(one, log_level="info"))
    )
    await eventually(lambda: world.one._changing != {})
    world.one.feed(digest(identifier), world.bucket.stored[digest(identifier)][0], 1)
    await asyncio.sleep(0)
    assert not change.done()  # older news than its own
    world.tell(world.two)
    world.tell(world.one)
    await change
    found = world.two.held(identifier, ANN)
    assert found is not None
    assert found.log_level == "info"
    assert world.one._changing == {}


async def test_the_watch_brings_changes_of_others_and_nothing_older(world: World) -> None:
    identifier = await world.one.open(world.record())
    await world.two.find(identifier, ANN)
    old = world.bucket.stored[digest(identifier)]
    await world.one.change(identifier, lambda one: msgspec.structs.replace(one, log_level="info"))
    world.tell(world.two)
    world.two.feed(digest(identifier), *old)
    found = world.two.held(identifier, ANN)
    assert found is not None
    assert found.log_level == "info"
    assert len(world.two) == 1


async def test_least_recently_used_copy_goes_first(monkeypatch) -> None:
    monkeypatch.setattr("gateway.sessions.HELD_MAX", 2)
    world = World()
    first, second = await world.one.open(world.record()), await world.one.open(world.record())
    assert world.one.held(first, ANN) is not None
    await world.one.open(world.record())
    assert world.one.held(first, ANN) is not None
    assert world.one.held(second, ANN) is None
