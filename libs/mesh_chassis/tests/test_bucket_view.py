"""A bucket as a dictionary: current, typed, and closed on what cannot be read."""

import msgspec

from mcp_proto.buckets import Bucket
from mesh_chassis.bucket import KV
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.testing.conditions import eventually

BUCKET = Bucket(name="view_test", writer="operator", per_key_ttl=True)


class Colour(msgspec.Struct):
    name: str


def read(key: str, value: bytes) -> Colour | None:
    return None if key.startswith("other") else msgspec.json.decode(value, type=Colour)


async def test_view_follows_writes_deletes_and_expiry(broker, connect_bus) -> None:
    bus = await connect_bus("operator", "operator")
    kv = await KV.ensure(bus, BUCKET)
    await kv.put("before", b'{"name":"red"}')
    changes: list[tuple[str, Colour | None]] = []
    view = BucketView(kv, read, on_change=lambda key, value: changes.append((key, value)))
    assert view.age_s == float("inf")
    await view.start()
    assert view.get("before") == Colour("red")
    assert view.fresh
    revision = await kv.put("after", b'{"name":"blue"}')
    assert await view.seen(revision)
    assert len(view) == 2
    assert sorted(one.name for one in view.values()) == ["blue", "red"]
    await kv.put("other.kind", b"anything")
    await kv.put("short", b'{"name":"grey"}', ttl_s=1)
    await kv.delete("before")
    await eventually(lambda: view.get("before") is None and view.get("short") is not None)
    await eventually(lambda: view.get("short") is None)
    assert [key for key, _ in view.items()] == ["after"]
    assert changes == [
        ("before", Colour("red")),
        ("after", Colour("blue")),
        ("short", Colour("grey")),
        ("before", None),
        ("short", None),
    ]
    await view.stop()


async def test_value_that_cannot_be_read_counts_as_gone(broker, connect_bus) -> None:
    bus = await connect_bus("operator", "operator")
    kv = await KV.ensure(bus, BUCKET)
    view = BucketView(kv, read)
    await view.start()
    await kv.put("a", b'{"name":"red"}')
    assert await view.seen(await kv.put("a", b'{"name":'))
    assert view.get("a") is None
    assert view.unreadable == 1
    await view.stop()


async def test_seen_gives_up_on_a_revision_that_never_comes(
    broker, connect_bus, monkeypatch
) -> None:
    monkeypatch.setattr("mesh_chassis.bucket_view.SEEN_S", 0.05)
    bus = await connect_bus("operator", "operator")
    view = BucketView(await KV.ensure(bus, BUCKET), read)
    await view.start()
    assert not await view.seen(10_000)
    await view.stop()
