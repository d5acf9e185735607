"""Claim checks: both directions, operations, losses, limits."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.contracts.registry import Put, Remove
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus import blob as blob_module
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint, LargeBody, serve_operation

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]
TENANT = "acme"
TEN_MIB = bytes(range(256)) * 40960


async def gone(bus: Bus) -> None:
    async with asyncio.timeout(2):
        while bus.blobs.offered_bytes:  # noqa: ASYNC110 - a release has no event
            await asyncio.sleep(0.002)


async def test_request_and_result_of_10_mib_arrive_unchanged_and_are_released(
    serve: Serve, call: MakeCall, gateway: Bus, runner: Bus
) -> None:
    seen: list[str] = []

    async def handler(request: Call) -> bytes:
        seen.append(hashlib.sha256(request.payload).hexdigest())
        return request.payload[::-1]

    await serve(handler)
    assert await call(TEN_MIB, timeout_s=20) == TEN_MIB[::-1]
    assert seen == [hashlib.sha256(TEN_MIB).hexdigest()]
    await gone(gateway)
    await gone(runner)


async def test_several_large_calls_at_once_do_not_mix(serve: Serve, call: MakeCall) -> None:
    async def handler(request: Call) -> bytes:
        return request.payload

    await serve(handler)
    bodies = [bytes([number]) * (600_000 + number) for number in range(5)]
    assert await asyncio.gather(*[call(body, timeout_s=20) for body in bodies]) == bodies


@pytest.mark.parametrize("extra", [0, 1])
async def test_body_at_the_inline_limit_travels_inline_and_above_it_as_a_claim(
    serve: Serve, call: MakeCall, gateway: Bus, extra: int
) -> None:
    claims: list[bool] = []

    async def handler(request: Call) -> bytes:
        claims.append("Mesh-Blob" in request.headers)
        return request.payload

    await serve(handler)
    body = b"x" * (256 * 1024 + extra)
    assert await call(body) == body
    assert claims == [bool(extra)]


async def test_operation_carries_large_parameters(
    connect_bus: Callable[..., Awaitable[Bus]],
) -> None:
    op = Operation("registry", "large", Remove, Remove)
    registry = await connect_bus("registry", "registry-1")
    operator = await connect_bus("operator", "operator")

    async def handler(params: Remove) -> Remove:
        return params

    endpoint = serve_operation(registry, op, handler)
    await endpoint.start()
    params = Remove(tenant="a", server="s" * 900_000, instance="i")
    assert await operator.operation(op, params) == params
    await endpoint.drain()
    assert Put  # contracts stay importable beside each other


async def test_plain_client_gets_a_large_result_inline_up_to_the_brokers_ceiling(
    serve: Serve, gateway: Bus, server: str
) -> None:
    async def handler(request: Call) -> bytes:
        return b"x" * int(request.payload)

    await serve(handler)
    subject = subjects.call(TENANT, server, "tool")
    ceiling = gateway.max_payload
    fits = await gateway.request(subject, b"%d" % ceiling, timeout_s=5)
    assert len(fits.payload) == ceiling
    over = await gateway.request(subject, b"%d" % (ceiling + 1), timeout_s=5)
    assert over.headers["Nats-Service-Error-Code"] == "413"
    assert b'"outcome":"executed"' in over.payload


async def test_body_over_64_mib_is_refused(gateway: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_module, "BLOB_MAX_BYTES", 1000)
    with pytest.raises(MeshError) as raised:
        await gateway.blobs.offer(b"x" * 1001, TENANT)
    assert raised.value.kind is ErrorKind.TOO_LARGE


async def test_offers_beyond_the_table_are_refused_as_overloaded(
    gateway: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_module, "OFFERED_BYTES_MAX", 1000)
    claim = await gateway.blobs.offer(b"x" * 900, TENANT)
    with pytest.raises(MeshError) as raised:
        await gateway.blobs.offer(b"x" * 200, TENANT)
    assert raised.value.kind is ErrorKind.OVERLOADED
    gateway.blobs.release(claim)
    await gateway.blobs.offer(b"x" * 200, TENANT)


async def test_body_nobody_pulls_is_forgotten(
    gateway: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_module, "BLOB_IDLE_S", 0.02)
    monkeypatch.setattr(blob_module, "EXPIRE_S", 0.02)
    await gateway.blobs.offer(b"x" * 1000, TENANT)
    assert gateway.blobs.offered_bytes == 1000
    await gone(gateway)


async def test_body_is_not_given_to_another_tenant(gateway: Bus, runner: Bus) -> None:
    claim = await gateway.blobs.offer(b"x" * 1000, TENANT)
    with pytest.raises(MeshError) as raised:
        await runner.blobs.pull(claim, "evil", 2)
    assert raised.value.kind is ErrorKind.LOST
    assert await runner.blobs.pull(claim, TENANT, 2) == b"x" * 1000


async def test_damaged_body_is_refused(gateway: Bus, runner: Bus) -> None:
    claim = await gateway.blobs.offer(b"x" * 1000, TENANT)
    wrong = {**claim, "Mesh-Blob-Sha256": hashlib.sha256(b"y").hexdigest()}
    with pytest.raises(MeshError, match="damaged"):
        await runner.blobs.pull(wrong, TENANT, 2)


async def test_claim_of_a_sender_that_is_gone_fails_fast(runner: Bus) -> None:
    claim = {
        "Mesh-Blob": f"gateway-9.{'0' * 32}",
        "Mesh-Blob-Size": "1000",
        "Mesh-Blob-Sha256": "0" * 64,
    }
    with pytest.raises(MeshError, match="gone") as raised:
        await runner.blobs.pull(claim, TENANT, 5)
    assert raised.value.kind is ErrorKind.LOST


@pytest.mark.parametrize(
    "claim",
    [
        {},
        {"Mesh-Blob": "gateway-1.xyz", "Mesh-Blob-Size": "1", "Mesh-Blob-Sha256": "0" * 64},
        {"Mesh-Blob": f"a.>.{'0' * 32}", "Mesh-Blob-Size": "1", "Mesh-Blob-Sha256": "0" * 64},
        {"Mesh-Blob": f"g.{'0' * 32}", "Mesh-Blob-Size": "-1", "Mesh-Blob-Sha256": "0" * 64},
    ],
)
async def test_malformed_claim_is_refused(runner: Bus, claim: dict[str, str]) -> None:
    with pytest.raises(MeshError) as raised:
        await runner.blobs.pull(claim, TENANT, 1)
    assert raised.value.kind is ErrorKind.REQUEST


async def test_result_whose_body_cannot_be_fetched_counts_as_executed(
    serve: Serve, call: MakeCall, runner: Bus
) -> None:
    async def handler(request: Call) -> bytes:
        return b"x" * 300_000

    offer = runner.blobs.offer

    async def offer_and_forget(body: bytes, tenant: str) -> object:
        claim = await offer(body, tenant)
        runner.blobs.release(claim)
        return claim

    runner.blobs.offer = offer_and_forget  # type: ignore[method-assign,assignment]
    await serve(handler)
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.LOST
    assert raised.value.outcome is Outcome.EXECUTED


async def test_small_calls_are_served_while_large_bodies_travel(
    serve: Serve, call: MakeCall
) -> None:
    async def handler(request: Call) -> bytes:
        return request.payload

    await serve(handler, slots=64)
    bulk = asyncio.create_task(call(TEN_MIB, timeout_s=20))
    answered = 0
    while not bulk.done():
        assert await call(b"small", timeout_s=2) == b"small"
        answered += 1
    assert await bulk == TEN_MIB
    assert answered > 5


async def parts_of(body: bytes, ended: list[str]) -> AsyncGenerator[bytes]:
    """Parts that fit no chunk, each after the ones before could leave."""
    try:
        for at in range(0, len(body), 100_003):
            await asyncio.sleep(0)
            yield body[at : at + 100_003]
        ended.append("made")
    finally:
        ended.append("closed")


async def test_result_is_pulled_while_it_is_made(serve: Serve, call: MakeCall, runner: Bus) -> None:
    ended: list[str] = []

    async def handler(_: Call) -> LargeBody:
        made = LargeBody(size=len(TEN_MIB), parts=parts_of(TEN_MIB, ended))
        return made.within(b"<", b">")

    await serve(handler)
    assert await call(b"x", timeout_s=20) == b"<" + TEN_MIB + b">"
    assert ended == ["made", "closed"]
    await gone(runner)


async def test_result_that_cannot_be_made_to_its_end_is_the_error_of_its_maker(
    serve: Serve, call: MakeCall
) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b"x" * 500_000
        raise MeshError(ErrorKind.BUS, "the store went away")

    async def handler(_: Call) -> LargeBody:
        return LargeBody(size=1_000_000, parts=broken())

    await serve(handler)
    with pytest.raises(MeshError) as raised:
        await call(b"x", timeout_s=5)
    assert (raised.value.kind, raised.value.message) == (ErrorKind.BUS, "the store went away")
    assert raised.value.outcome is Outcome.EXECUTED


@pytest.mark.parametrize("said", [999_999, 1_000_001])
async def test_result_of_another_size_than_said_is_an_error(
    serve: Serve, call: MakeCall, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: Call) -> LargeBody:
        return LargeBody(size=said, parts=parts_of(b"x" * 1_000_000, []))

    await serve(handler)
    with pytest.raises(MeshError) as raised:
        await call(b"x", timeout_s=5)
    assert raised.value.kind is ErrorKind.INTERNAL
    assert "than it was said to be" in caplog.text


async def test_making_ends_when_nobody_wants_it_any_more(runner: Bus) -> None:
    ended: list[str] = []
    body = LargeBody(size=len(TEN_MIB), parts=parts_of(TEN_MIB, ended))
    claim = await runner.blobs.offer(body, TENANT)
    await asyncio.sleep(0)
    runner.blobs.release(claim)
    async with asyncio.timeout(2):
        while not ended:  # noqa: ASYNC110 - the end of a generator has no event
            await asyncio.sleep(0.002)
    assert ended == ["closed"]
    assert not runner.blobs.offered_bytes


async def test_plain_client_gets_what_is_being_made_whole(
    serve: Serve, gateway: Bus, server: str
) -> None:
    async def handler(_: Call) -> LargeBody:
        return LargeBody(size=600_000, parts=parts_of(b"y" * 600_000, []))

    await serve(handler)
    reply = await gateway.request(subjects.call(TENANT, server, "tool"), b"{}", timeout_s=5)
    assert reply.payload == b"y" * 600_000


async def test_intake_sees_each_part_before_the_call_and_is_closed_after_it(
    runner: Bus, call: MakeCall, server: str
) -> None:
    seen: list[object] = []

    class Taken:
        async def feed(self, part: bytes) -> None:
            seen.append(len(part))

        def rest(self, parts: list[bytes]) -> bytes:
            seen.append("whole")
            return parts[0][:3]

        async def close(self) -> None:
            seen.append("closed")

    async def handler(request: Call) -> bytes:
        seen.append("called")
        return request.payload

    endpoint = Endpoint(
        runner,
        subject=subjects.call(TENANT, server, subjects.ANY),
        handler=handler,
        queue=subjects.QUEUE,
        intake=lambda _: Taken(),
    )
    await endpoint.start()
    assert await call(b"abc" + b"x" * 300_000) == b"abc"
    assert seen == [131072, 131072, 37859, "whole", "called", "closed"]
    assert await call(b"small") == b"small"
    await endpoint.drain()
