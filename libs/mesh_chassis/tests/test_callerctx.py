"""Signed contexts verify everywhere, only unaltered, only in time, only with a listed key."""

import asyncio
import base64
import itertools
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import CallerContext, SealedKey
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import HEADER_BYTES_MAX
from mesh_chassis import callerctx
from mesh_chassis.callerctx import (
    LIFE_MS,
    ContextSigner,
    ContextVerifier,
    load_kek,
    new_kek,
    new_signing_key,
    open_key,
    seal_key,
)
from mesh_chassis.config import ConfigError
from mesh_chassis.keyring import KEYS_MAX, KeyRing
from mesh_chassis.testing.clock import FakeClock
from mesh_chassis.testing.provision import written_by

KEK = bytes(range(32))
WHO = CallerContext(
    tid="demo-tenant",
    sub="user-demo-123",
    roles=("Admin",),
    exp=0,
    iss="gateway-1",
    sid="s",
    perms=("ReadKV",),
)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ring = KeyRing()
        self.add_key()
        self.signer = ContextSigner(self.ring, KEK, clock_ms=self.clock.now_ms)
        self.verifier = ContextVerifier(self.ring, clock_ms=self.clock.now_ms)

    def add_key(self, *, after_ms: int = 0) -> SealedKey:
        now = self.clock.now_ms()
        key = new_signing_key(KEK, created_ms=now, use_from_ms=now + after_ms)
        self.ring.put(key)
        return key


@pytest.fixture
def world() -> World:
    return World()


def refused(verifier: ContextVerifier, token: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        verifier.verify(token)
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    assert token not in str(caught.value) or not token
    return caught.value


def test_a_verifier_reads_what_a_signer_signed(world: World) -> None:
    token = world.signer.sign(WHO)
    context = world.verifier.verify(token)
    assert context == msgspec.structs.replace(WHO, exp=world.clock.now_ms() + LIFE_MS)
    assert world.verifier.verify(token) is context
    assert len(token) < HEADER_BYTES_MAX / 2
    assert token.isascii()


def test_a_signer_signs_once_per_identity_until_half_of_the_life(world: World) -> None:
    token = world.signer.sign(WHO)
    world.clock.advance(149)
    assert world.signer.sign(WHO) == token
    world.clock.advance(2)
    renewed = world.signer.sign(WHO)
    assert renewed != token
    assert world.verifier.verify(token).exp < world.verifier.verify(renewed).exp


@pytest.mark.parametrize(
    "change", [{"tid": "x"}, {"sub": "x"}, {"roles": ()}, {"perms": ()}, {"sid": ""}, {"iss": "x"}]
)
def test_a_signer_never_mixes_identities(world: World, change: dict[str, object]) -> None:
    first = world.signer.sign(WHO)
    other = msgspec.structs.replace(WHO, **change)
    second = world.signer.sign(other)
    assert first != second
    assert world.verifier.verify(second) == msgspec.structs.replace(
        other, exp=world.clock.now_ms() + LIFE_MS
    )


def test_a_token_never_outlives_the_credential(world: World) -> None:
    soon = world.clock.now_ms() + 10_000
    long_lived = world.signer.sign(WHO)
    short = world.signer.sign(msgspec.structs.replace(WHO, exp=soon))
    assert short != long_lived
    assert world.verifier.verify(short).exp == soon
    world.clock.advance(11)
    with pytest.raises(MeshError, match="expired"):
        world.signer.sign(msgspec.structs.replace(WHO, exp=soon))


def test_a_caller_that_names_a_later_expiry_each_time_still_hits_the_cache(world: World) -> None:
    tokens = set()
    for _ in range(10):
        latest = world.clock.now_ms() + LIFE_MS
        tokens.add(world.signer.sign(msgspec.structs.replace(WHO, exp=latest)))
        world.clock.advance(1)
    assert len(tokens) == 1


def test_a_token_expires_with_two_seconds_of_leeway_even_when_cached(world: World) -> None:
    token = world.signer.sign(WHO)
    world.verifier.verify(token)
    world.clock.advance(LIFE_MS / 1000 + 1.999)
    world.verifier.verify(token)
    world.clock.advance(0.001)
    assert "expired" in refused(world.verifier, token).message
    assert "expired" in refused(ContextVerifier(world.ring), token).message


def test_every_altered_character_is_refused(world: World) -> None:
    token = world.signer.sign(WHO)
    for i in range(len(token)):
        other = "A" if token[i] != "A" else "B"
        refused(world.verifier, token[:i] + other + token[i + 1 :])


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b", "a.b.c.d", "x" * 3000, "\ud800.a.b", "é.é.é", "a.\n.b", " . . "],
)
def test_malformed_tokens_are_refused(world: World, token: str) -> None:
    refused(world.verifier, token)


def test_other_spellings_of_a_token_are_refused(world: World) -> None:
    kid, body, signature = world.signer.sign(WHO).split(".")
    for token in (
        f"{kid}.{body}=.{signature}",
        f"{kid}.{body}.{signature}==",
        f"{kid}.{body}.{signature[:-1]}\n",
        f"{kid} .{body}.{signature}",
        f"{kid}.{body}.{signature}.",
    ):
        refused(world.verifier, token)


def test_a_body_signed_for_another_kid_or_of_another_shape_is_refused(world: World) -> None:
    _, body, signature = world.signer.sign(WHO).split(".")
    other = world.add_key()
    refused(world.verifier, f"{other.kid}.{body}.{signature}")
    private = open_key(KEK, other)
    for raw in (b"{}", b"[]", b'{"tid":1}', b"\xff", b""):
        forged = f"{other.kid}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"
        sig = base64.urlsafe_b64encode(private.sign(forged.encode())).rstrip(b"=").decode()
        assert "malformed" in refused(world.verifier, f"{forged}.{sig}").message


def test_a_key_of_somebody_else_does_not_verify(world: World) -> None:
    theirs = World()
    assert "unknown key" in refused(world.verifier, theirs.signer.sign(WHO)).message


def test_removing_a_key_cuts_its_tokens_at_once_and_signers_move_on(world: World) -> None:
    token = world.signer.sign(WHO)
    world.verifier.verify(token)
    world.clock.advance(1)
    world.add_key()
    assert world.signer.sign(WHO) == token, "the cached one is still good"
    world.ring.remove(token.split(".")[0])
    refused(world.verifier, token)
    world.verifier.verify(world.signer.sign(WHO))


def test_rotation_refuses_nobody(world: World) -> None:
    new = world.add_key(after_ms=60_000)
    before = world.signer.sign(WHO)
    assert not before.startswith(new.kid)
    world.clock.advance(61)
    after = world.signer.sign(msgspec.structs.replace(WHO, sid="other"))
    assert after.startswith(new.kid)
    for token in (before, after):
        world.verifier.verify(token)


def test_a_signer_without_a_usable_key_says_so_and_when_to_retry() -> None:
    with pytest.raises(MeshError) as caught:
        ContextSigner(KeyRing(), KEK).sign(WHO)
    assert caught.value.kind is ErrorKind.BUS
    assert caught.value.retry_after_s == 1.0


def test_a_sealed_key_opens_only_with_its_kek_its_kid_and_its_public_half(world: World) -> None:
    key = world.add_key()
    open_key(KEK, key)
    replace = msgspec.structs.replace
    wrong = [
        (bytes(32), key),
        (KEK, replace(key, kid="other")),
        (KEK, replace(key, sealed=key.sealed[:-1])),
        (KEK, replace(key, sealed=b"")),
        (KEK, replace(key, public=bytes(32))),
        (KEK, replace(key, sealed=seal_key(KEK, key.kid, b"short"))),
    ]
    for kek, record in wrong:
        with pytest.raises(MeshError) as caught:
            open_key(kek, record)
        assert caught.value.kind is ErrorKind.INTERNAL


def test_sealing_with_a_given_nonce_is_repeatable() -> None:
    assert seal_key(KEK, "k", bytes(32), nonce=bytes(12)) == seal_key(
        KEK, "k", bytes(32), nonce=bytes(12)
    )
    assert seal_key(KEK, "k", bytes(32)) != seal_key(KEK, "k", bytes(32))


def test_a_kek_file_holds_32_bytes_in_base64(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_text(new_kek() + "\n")
    assert len(load_kek(str(path))) == 32
    for text in ("AAAA", "not base64!", ""):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_kek(str(path), key="keys.kek_file")
        assert caught.value.key == "keys.kek_file"


def test_both_caches_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callerctx, "CACHE_MAX", 3)
    tokens = [world.signer.sign(msgspec.structs.replace(WHO, sub=f"u{i}")) for i in range(5)]
    for token in tokens:
        world.verifier.verify(token)
    assert len(world.signer._cache) == len(world.verifier._cache) == 3
    world.verifier.verify(tokens[2])
    world.verifier.verify(tokens[0])
    assert tokens[2] in world.verifier._cache, "the least recently used goes first"
    assert tokens[3] not in world.verifier._cache


def test_the_ring_is_bounded_and_refuses_what_is_no_key() -> None:
    ring = KeyRing()
    world = World()
    for _ in range(KEYS_MAX):
        ring.put(world.add_key() if len(world.ring) < KEYS_MAX else _fresh())
    with pytest.raises(ValueError, match="64 keys sign"):
        ring.put(_fresh())
    with pytest.raises(ValueError, match="32"):
        KeyRing().put(msgspec.structs.replace(_fresh(), public=b"x"))


_counter = itertools.count(1)


def _fresh() -> SealedKey:
    return new_signing_key(KEK, created_ms=next(_counter), use_from_ms=0)


async def test_the_ring_follows_the_bucket_and_ignores_broken_records(broker, connect_bus) -> None:
    keys = await written_by(connect_bus, buckets.KEYS)
    first = _fresh()
    await keys.put(f"sign.{first.kid}", msgspec.json.encode(first))
    await keys.put("sign.broken", b"{")
    await keys.put("sign.lying", msgspec.json.encode(_fresh()))
    await keys.put("pepper.1", b"hush")
    ring = await KeyRing.open(await connect_bus("tool-runner", "runner-1"))
    try:
        assert len(ring) == 1
        assert first.kid in ring
        assert ring.watch is not None
        second = msgspec.structs.replace(_fresh(), use_from_ms=5)
        await keys.put(f"sign.{second.kid}", msgspec.json.encode(second))
        await _until(lambda: ring.signing_key(10) == second)
        await keys.delete(f"sign.{first.kid}")
        await _until(lambda: first.kid not in ring)
        assert ring.public_key(first.kid) is None
    finally:
        await ring.close()


async def _until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the watch tells nobody, so the test looks
            await asyncio.sleep(0.005)


def test_a_changed_public_half_counts_as_a_removal(world: World) -> None:
    token = world.signer.sign(WHO)
    world.verifier.verify(token)
    record = next(iter(world.ring._records.values()))
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    world.ring.put(msgspec.structs.replace(record, public=public))
    refused(world.verifier, token)


def test_context_of_a_task_is_never_mistaken_for_one_of_its_submitter(world: World) -> None:
    """The signer remembers tokens: what a task does must not lose its chain, nor lend its grant."""
    plain = world.signer.sign(WHO)
    task = msgspec.structs.replace(WHO, chain=("task_1",), gid="grant_1")
    deeper = msgspec.structs.replace(task, chain=("task_1", "task_2"), gid="grant_2")
    tokens = [plain, world.signer.sign(task), world.signer.sign(deeper), world.signer.sign(WHO)]
    chains = [world.verifier.verify(one).chain for one in tokens]
    assert chains == [(), ("task_1",), ("task_1", "task_2"), ()]
