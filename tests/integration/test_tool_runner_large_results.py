"""Results beyond what an edge delivers: stored by a real runner, read back in ranges."""

import asyncio
import base64
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import pytest_asyncio

from mcp_proto import buckets, subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.limits import EDGE_MESSAGE_BYTES
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import ContextSigner, new_kek, new_signing_key
from mesh_chassis.clock import now_ms
from mesh_chassis.config import ServiceSection
from mesh_chassis.keyring import KeyRing
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_chassis.testing.provision import written_by
from tool_runner.config import ResultsConfig, RunnerSection, StorageConfig, ToolRunnerConfig
from tool_runner.service import build

ConnectBus = Callable[..., Awaitable[Bus]]
BULK = Path(__file__).parents[1] / "e2e" / "servers" / "bulk.py"
TENANT = "acme"
MB = 1_000_000

pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.timeout(60),
    pytest.mark.slow,
]


def body(size: int) -> str:
    return "".join(f"{number:09d}\n" for number in range(size // 10 + 1))[:size]


def settings(
    *, allow_unsigned: bool = True, quota: int = 256 * MB, **results: int
) -> ToolRunnerConfig:
    bulk = ServerDefinition(name="bulk", command=sys.executable, args=(str(BULK),))
    return ToolRunnerConfig(
        service=ServiceSection(instance="runner-1"),
        runner=RunnerSection(allow_unsigned=allow_unsigned),
        results=ResultsConfig(**results),
        storage=StorageConfig(bytes_per_tenant=quota),
        mcp_servers=(bulk,),
    )


class Caller:
    """Calls as a gateway does: over the bus, with frames, so that claim checks work."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.sign: Callable[[str], str] = lambda _principal: ""

    async def ask(self, subject: str, method: str, principal: str = "", **params: object) -> Any:
        request_id = self.bus.new_request_id()
        answer = await self.bus.call(
            subject,
            encode_request(method, request_id, msgspec.json.encode(params)),
            envelope=RequestEnvelope(
                method=method, request_id=request_id, context=self.sign(principal)
            ),
            timeout_s=30.0,
            tenant=TENANT,
        )
        decoded = msgspec.json.decode(answer)
        if "error" in decoded:
            raise MeshError.from_object(msgspec.convert(decoded["error"], dict))
        self.bytes = len(answer)
        return decoded["result"]

    async def use(self, tool: str, size: int, principal: str = "") -> Any:
        subject = subjects.call(TENANT, "bulk", tool)
        arguments = {"size": size}
        while True:
            try:
                return await self.ask(
                    subject, "tools/call", principal, name=tool, arguments=arguments
                )
            except MeshError as error:
                if error.kind is not ErrorKind.NO_RUNNER:
                    raise
                await asyncio.sleep(0.02)  # its server still starts; the test has a timeout

    async def read(self, uri: str, principal: str = "") -> Any:
        subject = subjects.rpc(TENANT, "results", "resources/read")
        return (await self.ask(subject, "resources/read", principal, uri=uri))["contents"][0]


@pytest_asyncio.fixture
async def caller(broker: Broker, provision: None, connect_bus: ConnectBus) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def runner(caller: Caller, connect_bus: ConnectBus) -> AsyncIterator[None]:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        yield


def links(result: Any) -> list[Any]:
    return [one for one in result["content"] if one["type"] == "resource_link"]


@pytest.mark.usefixtures("runner")
async def test_9_mb_go_inline_as_they_are(caller: Caller) -> None:
    result = await caller.use("text", 9 * MB)
    assert result["content"][0]["text"] == body(9 * MB)


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("size", [11 * MB, 30 * MB])
async def test_more_becomes_a_link_and_is_read_back_in_ranges(caller: Caller, size: int) -> None:
    result = await caller.use("text", size)
    assert caller.bytes < 10_000
    (link,) = links(result)
    whole = body(size).encode()
    assert link["size"] == size
    assert link["mimeType"] == "text/plain; charset=utf-8"
    assert link["_meta"]["mesh/sha256"] == hashlib.sha256(whole).hexdigest()
    assert link["_meta"]["mesh/expiresAt"] > "2026"
    assert [one.get("text") for one in result["content"]][-1] == "small"
    assert link["uri"] in result["content"][0]["text"]
    assert "isError" not in result
    read = bytearray()
    uri = f"{link['uri']}?offset=0"
    while uri:
        piece = await caller.read(uri)
        read += base64.b64decode(piece["blob"])
        uri = piece["_meta"]["mesh/range"].get("next")
    assert bytes(read) == whole


@pytest.mark.usefixtures("runner")
async def test_a_range_is_cut_where_it_is_asked_for(caller: Caller) -> None:
    (link,) = links(await caller.use("text", 11 * MB))
    uri, whole = link["uri"], body(11 * MB).encode()
    for offset, length in ((0, 1), (131_071, 2), (131_072, 131_072), (10_999_999, 5), (262_000, 9)):
        piece = await caller.read(f"{uri}?offset={offset}&length={length}")
        assert base64.b64decode(piece["blob"]) == whole[offset : offset + length]
        assert piece["_meta"]["mesh/range"]["size"] == 11 * MB
    with pytest.raises(MeshError) as past:
        await caller.read(f"{uri}?offset={11 * MB}")
    assert past.value.kind is ErrorKind.PARAMS
    with pytest.raises(MeshError) as whole_of_it:
        await caller.read(uri)
    assert whole_of_it.value.kind is ErrorKind.TOO_LARGE
    assert whole_of_it.value.data["maxLength"] < EDGE_MESSAGE_BYTES


@pytest.mark.usefixtures("runner")
async def test_a_blob_is_stored_as_the_bytes_it_stands_for(caller: Caller) -> None:
    (link,) = links(await caller.use("blob", 9 * MB))
    assert (link["size"], link["mimeType"]) == (9 * MB, "image/png")
    piece = await caller.read(f"{link['uri']}?offset=100&length=10")
    assert base64.b64decode(piece["blob"]) == body(200).encode()[100:110]


@pytest.mark.usefixtures("runner")
async def test_many_items_are_stored_as_one(caller: Caller) -> None:
    result = await caller.use("many", 30 * MB)
    (link,) = links(result)
    assert link["mimeType"] == "application/json"
    assert len(result["content"]) == 2


@pytest.mark.usefixtures("runner")
async def test_structured_content_is_an_error_only_where_it_was_promised(caller: Caller) -> None:
    free = await caller.use("data", 11 * MB)
    assert "structuredContent" not in free
    assert "isError" not in free
    assert links(free)[0]["mimeType"] == "application/json"
    promised = await caller.use("promised", 11 * MB)
    assert promised["isError"] is True
    assert len(links(promised)) == 1


@pytest.mark.usefixtures("runner")
async def test_native_echo_obeys_the_limit(caller: Caller) -> None:
    message = body(int(9.9 * MB)).replace("\n", " ")
    result = await caller.ask(
        subjects.call(TENANT, "echo", "echo"),
        "tools/call",
        name="echo",
        arguments={"message": message},
    )
    (link,) = links(result)  # text and structuredContent are the same bytes: stored once
    stored = await caller.read(f"{link['uri']}?offset=0&length=30")
    assert base64.b64decode(stored["blob"]).startswith(b'{"message":"000000000')


@pytest.mark.usefixtures("runner")
async def test_a_prompt_links_and_a_resource_says_where_it_is(caller: Caller) -> None:
    prompt = await caller.ask(
        subjects.rpc(TENANT, "bulk", "prompts/get"), "prompts/get", name="long"
    )
    link = prompt["messages"][0]["content"]
    assert (link["type"], link["size"]) == ("resource_link", 11 * MB)
    with pytest.raises(MeshError) as refused:
        await caller.ask(
            subjects.rpc(TENANT, "bulk", "resources/read"), "resources/read", uri="bulk://long"
        )
    assert refused.value.kind is ErrorKind.TOO_LARGE
    assert refused.value.outcome is Outcome.EXECUTED
    (stored,) = refused.value.data["stored"]
    piece = await caller.read(f"{stored['uri']}?offset=0&length=10")
    assert base64.b64decode(piece["blob"]) == b"000000000\n"


async def test_only_its_principal_reads_a_result(caller: Caller, connect_bus: ConnectBus) -> None:
    owner = await written_by(connect_bus, buckets.KEYS)
    kek = base64.b64decode(new_kek())
    key = new_signing_key(kek, created_ms=now_ms(), use_from_ms=0)
    await owner.put(f"sign.{key.kid}", msgspec.json.encode(key))
    ring = await KeyRing.open(caller.bus)
    signer = ContextSigner(ring, kek)

    def sign(principal: str) -> str:
        perms = ("CallTools",)
        return signer.sign(
            CallerContext(
                tid=TENANT, sub=principal, roles=("User",), exp=0, iss="gateway-1", perms=perms
            )
        )

    caller.sign = sign
    config = settings(allow_unsigned=False)
    async with in_process(build, config, await connect_bus("tool-runner", "runner-1")):
        (link,) = links(await caller.use("text", 11 * MB, "ann"))
        uri = f"{link['uri']}?offset=0&length=10"
        assert (await caller.read(uri, "ann"))["blob"]
        unknown: list[MeshError] = []
        for asked, who in ((uri, "bob"), ("mesh://results/result_1_x?offset=0", "ann")):
            with pytest.raises(MeshError) as refused:
                await caller.read(asked, who)
            unknown.append(refused.value)
        assert unknown[0].kind is unknown[1].kind is ErrorKind.NOT_FOUND
        assert unknown[0].message == unknown[1].message
    await ring.close()


async def test_a_result_expires_and_its_bytes_with_it(
    caller: Caller, connect_bus: ConnectBus, broker: Broker
) -> None:
    config = settings(ttl_s=1)
    async with in_process(build, config, await connect_bus("tool-runner", "runner-1")):
        (link,) = links(await caller.use("text", 11 * MB))

        async def gone() -> bool:
            try:
                await caller.read(f"{link['uri']}?offset=0&length=1")
            except MeshError as error:
                return error.kind is ErrorKind.NOT_FOUND
            return False

        await eventually(gone, timeout_s=8.0)
        nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))

        async def swept() -> bool:
            return (await nc.jetstream().stream_info("OBJ_mesh_t_acme")).state.bytes == 0

        await eventually(swept, timeout_s=8.0)
        await nc.close()


@pytest.mark.usefixtures("runner")
async def test_results_stored_at_once_do_not_mix(caller: Caller) -> None:
    sizes = (11 * MB, 12 * MB, 13 * MB)
    for size, result in zip(
        sizes, await asyncio.gather(*(caller.use("text", size) for size in sizes)), strict=True
    ):
        (link,) = links(result)
        read = b""
        for offset in range(0, size, 6 * MB):
            piece = await caller.read(f"{link['uri']}?offset={offset}&length={6 * MB}")
            read += base64.b64decode(piece["blob"])
        assert read == body(size).encode()


async def test_what_was_stored_of_a_result_that_did_not_fit_is_given_back(
    caller: Caller, connect_bus: ConnectBus, broker: Broker
) -> None:
    config = settings(quota=20 * MB)
    async with in_process(build, config, await connect_bus("tool-runner", "runner-1")):
        await caller.use("text", 9 * MB)  # the server runs
        # Both see room for themselves; the broker stops one of them, or both, in the middle.
        outcomes = await asyncio.gather(
            *(caller.use("text", 11 * MB) for _ in range(2)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, MeshError)]
        assert refused
        assert {one.kind for one in refused} == {ErrorKind.TOO_LARGE}
        kept = (len(outcomes) - len(refused)) * 11 * MB
        nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))

        async def given_back() -> bool:
            used = (await nc.jetstream().stream_info("OBJ_mesh_t_acme")).state.bytes
            return used < kept + 200_000

        await eventually(given_back, timeout_s=8.0)
        await nc.close()


async def test_a_full_store_is_a_clear_error_that_says_the_tool_ran(
    caller: Caller, connect_bus: ConnectBus
) -> None:
    config = settings(quota=20 * MB)
    async with in_process(build, config, await connect_bus("tool-runner", "runner-1")):
        await caller.use("text", 11 * MB)
        with pytest.raises(MeshError) as full:
            await caller.use("text", 11 * MB)
        assert full.value.kind is ErrorKind.TOO_LARGE
        assert full.value.outcome is Outcome.EXECUTED
        assert full.value.data["quotaBytes"] == 20 * MB
        assert full.value.data["usedBytes"] > 11 * MB


@pytest.mark.usefixtures("runner")
async def test_the_stock_object_store_client_reads_what_is_stored(
    caller: Caller, broker: Broker
) -> None:
    (link,) = links(await caller.use("text", 11 * MB))
    nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))
    store = await nc.jetstream().object_store("mesh_t_acme")
    stored = await store.get(link["uri"].rpartition("/")[2])
    assert stored.data == body(11 * MB).encode()
    await nc.close()
