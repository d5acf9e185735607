import asyncio
import secrets

import pytest

from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bucket_change import ATTEMPTS, change_entry
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import ConnectBus


@pytest.fixture
async def kv(shared_broker: Broker, connect_bus: ConnectBus) -> KV:
    del shared_broker
    bucket = Bucket(name=f"mesh_t_{secrets.token_hex(6)}", writer="tool-runner", per_key_ttl=True)
    return await KV.ensure(await connect_bus("operator", "operator-1"), bucket)


async def value(kv: KV) -> bytes | None:
    entry = await kv.get("k")
    return entry.value if entry else None


async def test_change_creates_replaces_and_removes_and_says_which_revision(kv: KV) -> None:
    created = await change_entry(kv, "k", lambda old: b"1" if old is None else b"?", what="it")
    assert await value(kv) == b"1"
    replaced = await change_entry(kv, "k", lambda old: (old or b"") + b"2", what="it")
    assert 0 < created < replaced
    assert await value(kv) == b"12"
    assert await change_entry(kv, "k", lambda old: None, what="it") == 0
    assert await value(kv) is None
    assert await change_entry(kv, "k", lambda old: b"again", what="it") > replaced


async def test_the_value_it_was_given_or_nothing_for_nothing_writes_nothing(kv: KV) -> None:
    assert await change_entry(kv, "k", lambda old: old, what="it") == 0
    assert await kv.get("k") is None
    revision = await kv.put("k", b"1")
    assert await change_entry(kv, "k", lambda old: old, what="it") == 0
    entry = await kv.get("k")
    assert entry is not None
    assert entry.revision == revision


async def test_writers_at_once_lose_no_change(kv: KV) -> None:
    def count(old: bytes | None) -> bytes:
        return str(int(old or b"0") + 1).encode()

    await asyncio.gather(*(change_entry(kv, "k", count, what="it") for _ in range(ATTEMPTS)))
    assert await value(kv) == str(ATTEMPTS).encode()


async def test_who_always_loses_the_race_says_overloaded_and_the_other_write_stays(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def make(old: bytes | None) -> bytes:
        nonlocal made
        made += 1
        return b"mine"

    update = kv.update

    async def late(key: str, new: bytes, revision: int) -> int:
        await kv.put(key, b"theirs")
        return await update(key, new, revision)

    await kv.put("k", b"theirs")
    monkeypatch.setattr(kv, "update", late)
    with pytest.raises(MeshError, match="it is being changed by others") as raised:
        await change_entry(kv, "k", make, what="it")
    assert raised.value.kind is ErrorKind.OVERLOADED
    assert made == ATTEMPTS
    assert await value(kv) == b"theirs"


async def test_an_error_of_the_maker_is_raised_and_nothing_written(kv: KV) -> None:
    def make(old: bytes | None) -> bytes:
        raise MeshError(ErrorKind.PARAMS, "no")

    with pytest.raises(MeshError, match="no"):
        await change_entry(kv, "k", make, what="it")
    assert await kv.get("k") is None
