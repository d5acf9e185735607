"""Signing keys on a real broker, and the private files that open them."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import ContextSigner, ContextVerifier, load_kek, new_kek
from mesh_chassis.config import ConfigError, ServiceSection
from mesh_chassis.keyring import KeyRing, SealRing
from mesh_chassis.sealing import Sealer
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from tenant_auth.config import SecurityConfig, TenantAuthConfig, read_secrets
from tenant_auth.core.rotation import LEAD_S, LINGER_S, sealing_linger_s
from tenant_auth.reconciler import KeyRotation
from tenant_auth.service import build
from tenant_auth.store.keyring import SEALING, SIGNING, KeyRingStore

pytestmark = pytest.mark.usefixtures("provision")

DAY_S = 86_400


def private(path: Path, text: str, mode: int = 0o600) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def security(tmp_path: Path) -> SecurityConfig:
    return SecurityConfig(
        pepper_file=private(tmp_path / "pepper", "p" * 43 + "\n"),
        kek_file=private(tmp_path / "kek", new_kek() + "\n"),
    )


def config_of(security: SecurityConfig, name: str = "tenant-auth-1") -> TenantAuthConfig:
    return TenantAuthConfig(service=ServiceSection(instance=name), security=security)


CONTEXT = CallerContext(tid="acme", sub="ann", roles=("User",), exp=0, iss="gateway-1")


async def test_context_signed_by_a_gateway_is_verified_by_a_runner_from_the_first_moment(
    broker, connect_bus, security: SecurityConfig
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(security), bus):
        theirs = await KeyRing.open(await connect_bus("gateway", "gateway-1"))
        ours = await KeyRing.open(await connect_bus("tool-runner", "runner-1"))
        token = ContextSigner(theirs, load_kek(security.kek_file)).sign(CONTEXT)
        assert ContextVerifier(ours).verify(token).sub == "ann"
        await theirs.close()
        await ours.close()


async def test_two_replicas_started_at_once_make_one_key(
    broker, connect_bus, security: SecurityConfig
) -> None:
    buses = [await connect_bus("tenant-auth", f"tenant-auth-{n}") for n in (1, 2)]
    kek = load_kek(security.kek_file)
    stores = await asyncio.gather(*(KeyRingStore.open(bus, kek, SIGNING) for bus in buses))
    now_ms = buses[0].server_now_ms()
    await asyncio.gather(
        *(KeyRotation(store, every_s=DAY_S, now_ms=lambda: now_ms).step() for store in stores)
    )
    for store in stores:
        await eventually(lambda store=store: len(store.ring()) == 1)
        await store.close()


async def test_rotation_refuses_nobody_from_the_old_key_to_the_new_one(
    broker, connect_bus, security: SecurityConfig
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    kek = load_kek(security.kek_file)
    store = await KeyRingStore.open(bus, kek, SIGNING)
    clock = [bus.server_now_ms()]
    rotation = KeyRotation(store, every_s=DAY_S, now_ms=lambda: clock[0])
    await rotation.step()
    ring = await KeyRing.open(await connect_bus("gateway", "gateway-1"))
    verifying = await KeyRing.open(await connect_bus("tool-runner", "runner-1"))

    def kid_now() -> str:
        signer = ContextSigner(ring, kek, clock_ms=lambda: clock[0])
        token = signer.sign(CONTEXT)
        ContextVerifier(verifying, clock_ms=lambda: clock[0]).verify(token)
        return token.partition(".")[0]

    first = kid_now()
    clock[0] += (DAY_S - LEAD_S) * 1000
    await rotation.step()
    await eventually(lambda: len(ring) == len(verifying) == 2)
    assert kid_now() == first  # published, not yet used
    clock[0] += LEAD_S * 1000
    second = kid_now()
    assert second != first
    clock[0] += LINGER_S * 1000 - 1000
    await rotation.step()
    assert len(store.ring()) == 2
    clock[0] += 1000
    await rotation.step()
    await eventually(lambda: len(ring) == len(verifying) == 1)
    assert kid_now() == second
    # Nothing of the old private half stays in the history.
    reply = await (await connect_bus("operator", "operator")).request(
        "$JS.API.STREAM.MSG.GET.KV_mesh_keys", b'{"seq":1}', timeout_s=2
    )
    assert b"error" in reply.payload
    for one in (ring, verifying, store):
        await one.close()


async def test_new_kek_gets_a_new_key_at_once(
    broker, connect_bus, security: SecurityConfig, tmp_path: Path
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(security), bus):
        ring = await KeyRing.open(await connect_bus("gateway", "gateway-1"))
        before = ContextSigner(ring, load_kek(security.kek_file)).sign(CONTEXT).partition(".")[0]
        await ring.close()
    other = SecurityConfig(
        pepper_file=security.pepper_file, kek_file=private(tmp_path / "kek2", new_kek())
    )
    bus = await connect_bus("tenant-auth", "tenant-auth-2")
    async with in_process(build, config_of(other, "tenant-auth-2"), bus):
        ring = await KeyRing.open(await connect_bus("gateway", "gateway-2"))
        token = ContextSigner(ring, load_kek(other.kek_file)).sign(CONTEXT)
        assert token.partition(".")[0] > before
        await ring.close()


async def test_rotation_of_sealing_keys_refuses_no_sealed_state(
    broker, connect_bus, security: SecurityConfig
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    kek = load_kek(security.kek_file)
    store = await KeyRingStore.open(bus, kek, SEALING)
    clock = [bus.server_now_ms()]
    linger_s = sealing_linger_s(DAY_S)
    rotation = KeyRotation(store, every_s=DAY_S, now_ms=lambda: clock[0], linger_s=linger_s)
    await rotation.step()
    rings = [await SealRing.open(await connect_bus("gateway", f"gateway-{n}")) for n in (1, 2)]
    one, other = (Sealer(ring, kek, clock_ms=lambda: clock[0]) for ring in rings)
    first = one.seal("state", b"x")
    assert other.open("state", first) == b"x"
    clock[0] += (DAY_S - LEAD_S) * 1000
    await rotation.step()
    await eventually(lambda: all(len(ring) == 2 for ring in rings))
    assert one.seal("state", b"x").partition(".")[0] == first.partition(".")[0]
    clock[0] += LEAD_S * 1000
    second = one.seal("state", b"y")
    assert second.partition(".")[0] != first.partition(".")[0]
    assert (other.open("state", first), other.open("state", second)) == (b"x", b"y")
    for _ in range(linger_s // DAY_S):
        await rotation.step()
        clock[0] += DAY_S * 1000
    await rotation.step()
    await eventually(lambda: all(first.partition(".")[0] not in ring for ring in rings))
    with pytest.raises(MeshError):
        other.open("state", first)
    for closing in (*rings, store):
        await closing.close()


async def test_gateways_seal_from_the_first_moment_and_runners_cannot_open(
    broker, connect_bus, security: SecurityConfig
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(security), bus):
        ring = await SealRing.open(await connect_bus("tool-runner", "runner-1"))
        kek = load_kek(security.kek_file)
        token = Sealer(ring, kek, clock_ms=bus.server_now_ms).seal("state", b"x")
        with pytest.raises(MeshError):
            Sealer(ring, os.urandom(32), clock_ms=bus.server_now_ms).open("state", token)
        await ring.close()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
@pytest.mark.parametrize("field", ["pepper_file", "kek_file"])
def test_secret_file_that_others_can_use_is_refused(
    security: SecurityConfig, field: str, mode: int
) -> None:
    read_secrets(security)
    Path(getattr(security, field)).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secrets(security)
    assert caught.value.key == f"security.{field}"
    assert "chmod 600" in caught.value.reason


def test_missing_unnamed_and_malformed_secret_files_are_refused_by_name(
    security: SecurityConfig, tmp_path: Path
) -> None:
    kek, pepper = security.kek_file, security.pepper_file
    bad = private(tmp_path / "bad", "too short")
    for named, key, word in (
        (SecurityConfig(), "security.pepper_file", "mesh up"),
        (SecurityConfig(pepper_file=pepper), "security.kek_file", "missing"),
        (
            SecurityConfig(pepper_file=str(tmp_path / "no"), kek_file=kek),
            "security.pepper_file",
            "No such file",
        ),
        (
            SecurityConfig(pepper_file=str(tmp_path), kek_file=kek),
            "security.pepper_file",
            "not a regular file",
        ),
        (SecurityConfig(pepper_file=bad, kek_file=kek), "security.pepper_file", "line 1"),
        (SecurityConfig(pepper_file=pepper, kek_file=bad), "security.kek_file", "base64"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_secrets(named)
        assert caught.value.key == key
        assert word in str(caught.value)
        assert "too short" not in str(caught.value)


async def test_process_says_which_file_is_open_to_others_and_exits_for_good(
    broker, security: SecurityConfig, tmp_path: Path
) -> None:
    private(tmp_path / "pepper", "p" * 43, 0o644)
    path = tmp_path / "tenant-auth.toml"
    seed = broker.seed_for("tenant-auth", "tenant-auth-1")
    path.write_text(
        '[service]\ninstance = "tenant-auth-1"\n'
        f'[bus]\nurls = ["{broker.url}"]\nnkey_seed_file = "{seed}"\n'
        f'[security]\npepper_file = "{security.pepper_file}"\nkek_file = "{security.kek_file}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tenant_auth", "--config", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, told = await process.communicate()
    assert process.returncode == os.EX_CONFIG
    assert "security.pepper_file: other users can use the file (mode 0644)" in told.decode()


async def test_runner_cannot_write_the_key_ring(
    broker, connect_bus, security: SecurityConfig
) -> None:
    bus = await connect_bus("tenant-auth", "tenant-auth-1")
    async with in_process(build, config_of(security), bus):
        for service, name in (("tool-runner", "runner-1"), ("gateway", "gateway-1")):
            intruder: Bus = await connect_bus(service, name)
            write: Callable[..., Awaitable[object]] = intruder.request
            with pytest.raises(MeshError):
                await write("$KV.mesh_keys.sign.k000009", b"{}", timeout_s=0.3)
        kv = await KV.open(bus, buckets.KEYS)
        assert len(await kv.keys()) == 2
