"""Sealed tokens: any gateway opens them, nobody else reads or changes them."""

import os

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.keyring import SealRing
from mesh_chassis.sealing import TOKEN_CHARS_MAX, Sealer, new_sealing_key, open_sealing_key
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.provision import written_by

KEK = os.urandom(32)


class World:
    def __init__(self) -> None:
        self.now = 1_000
        self.ring = SealRing()
        self.sealer = Sealer(self.ring, KEK, clock_ms=lambda: self.now)

    def add(self, kid: str, use_from_ms: int = 0) -> None:
        self.ring.put(new_sealing_key(KEK, kid, created_ms=0, use_from_ms=use_from_ms))


@pytest.fixture
def world() -> World:
    made = World()
    made.add("k1")
    return made


def refused(world: World, purpose: str, token: str) -> None:
    with pytest.raises(MeshError) as caught:
        world.sealer.open(purpose, token)
    assert caught.value.kind is ErrorKind.PARAMS
    assert caught.value.message == "a sealed value cannot be opened"


def test_sealed_value_is_opened_by_another_gateway_with_the_same_keys(world: World) -> None:
    other = Sealer(world.ring, KEK, clock_ms=lambda: world.now)
    token = world.sealer.seal("state", b"secret")
    assert other.open("state", token) == b"secret"
    assert "secret" not in token
    assert world.sealer.seal("state", b"secret") != token


def test_token_of_one_purpose_is_no_token_of_another(world: World) -> None:
    refused(world, "task", world.sealer.seal("state", b"x"))


def test_every_altered_character_is_noticed(world: World) -> None:
    token = world.sealer.seal("state", b"four")
    for at in range(len(token)):
        for other in ("A", "_", ".", "=", " ", "\n", "é"):
            if token[at] != other:
                refused(world, "state", token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize("token", ["", ".", "k1", "k1.", "k1.AAAA", "k2.AAAA", "k1.A", "é.é"])
def test_what_is_no_token_is_refused(world: World, token: str) -> None:
    refused(world, "state", token)


def test_added_characters_are_refused(world: World) -> None:
    token = world.sealer.seal("state", b"x")
    for other in (token + "A", token + "=", token[:-1], "A" + token, token + ".A"):
        refused(world, "state", other)


def test_rotation_refuses_no_token_until_its_key_is_dropped(world: World) -> None:
    old = world.sealer.seal("state", b"old")
    world.add("k2", use_from_ms=2_000)
    assert world.sealer.seal("state", b"x").startswith("k1.")
    world.now = 2_000
    assert world.sealer.seal("state", b"x").startswith("k2.")
    assert world.sealer.open("state", old) == b"old"
    world.ring.remove("k1")
    refused(world, "state", old)


def test_without_a_key_sealing_asks_to_come_again() -> None:
    with pytest.raises(MeshError) as caught:
        Sealer(SealRing(), KEK).seal("state", b"x")
    assert caught.value.kind is ErrorKind.BUS
    assert caught.value.retry_after_s


def test_too_large_values_are_refused_both_ways(world: World) -> None:
    with pytest.raises(MeshError) as caught:
        world.sealer.seal("state", b"x" * TOKEN_CHARS_MAX)
    assert caught.value.kind is ErrorKind.TOO_LARGE
    refused(world, "state", "k1." + "A" * TOKEN_CHARS_MAX)


def test_key_sealed_under_another_kek_or_renamed_is_not_opened() -> None:
    record = new_sealing_key(KEK, "k1", created_ms=0, use_from_ms=0)
    assert len(open_sealing_key(KEK, record)) == 32
    for kek, other in (
        (os.urandom(32), record),
        (KEK, msgspec.structs.replace(record, kid="k2")),
        (KEK, msgspec.structs.replace(record, sealed=record.sealed[:5])),
        (KEK, new_sealing_key(KEK, "k1", created_ms=0, use_from_ms=0, key=b"short")),
    ):
        with pytest.raises(MeshError):
            open_sealing_key(kek, other)


def test_token_whose_key_is_sealed_under_another_kek_is_refused(world: World) -> None:
    token = world.sealer.seal("state", b"x")
    world.sealer = Sealer(world.ring, os.urandom(32), clock_ms=lambda: world.now)
    refused(world, "state", token)


async def test_the_ring_follows_the_bucket_and_leaves_signing_keys_alone(
    broker, connect_bus
) -> None:
    keys = await written_by(connect_bus, buckets.KEYS)
    record = new_sealing_key(KEK, "k1", created_ms=0, use_from_ms=0)
    await keys.put("seal.k1", msgspec.json.encode(record))
    await keys.put("sign.k2", b"{}")
    ring = await SealRing.open(await connect_bus("gateway", "gateway-1"))
    try:
        assert ring.record("k1") == record
        assert len(ring) == 1
        token = Sealer(ring, KEK).seal("state", b"x")
        await keys.purge("seal.k1")
        await eventually(lambda: not len(ring))
        with pytest.raises(MeshError):
            Sealer(ring, KEK).open("state", token)
    finally:
        await ring.close()
