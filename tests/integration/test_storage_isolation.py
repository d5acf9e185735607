"""Two tenants, every storage tool, hostile keys, through a real gateway: nothing crosses.

Both tenants do the same under the same names at the same time, each with its own content. Whatever
one of them then reads, lists, watches, replaces or deletes is its own.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio
from tests.integration.storage_rig import ACME, OTHER, Caller, StorageMesh, storage_mesh

from tool_runner.core.store_uris import ARTIFACTS_ROOT, EVENTS_ROOT, uri_of

HOSTILE = (
    "shared",
    "..",
    "../other/secret",
    "../../t-other/secret",
    "a..b",
    "/",
    "//other/secret",
    "%2e%2e%2fother%2fsecret",
    "..%2fother",
    "%00",
    "=2E=2E",
    "*",
    ">",
    "other.>",
    "mesh_t_other",
    "OBJ_mesh_t_other",
    "$KV.mesh_t_other.secret",
    "$O.mesh_t_other.M.c2VjcmV0",
    "mesh.v1.other.topic.secret",
    "artifacts/secret",
    "mesh://artifacts/secret",
    "tenant=other",
    "?tenant=other",
    "secret?tenant=other#x",
    "other/secret",
    "other:secret",
    "_",
    "\x00",
    "\n",
    "\u202eterces",
    "\u0455ecret",
    "😀/😀",
    "x" * 256,
)
TENANTS = (ACME, OTHER)


@pytest_asyncio.fixture
async def mesh(broker, connect_bus, tmp_path: Path) -> AsyncIterator[StorageMesh]:
    async with storage_mesh(connect_bus, tmp_path, runners=2) as made:
        yield made


def of(tenant: str, name: str) -> str:
    return f"content of {tenant} under {name}"


async def tool_or_refusal(caller: Caller, tool: str, **arguments: object) -> Any:
    """What a tool answers: structured content, or None where this name is refused."""
    answer = await caller.ask("tools/call", name=tool, arguments=arguments)
    if "error" in answer:
        assert answer["error"]["code"] in {-32602, -31012}, answer
        return None
    result = answer["result"]
    return None if result.get("isError") else result["structuredContent"]


async def fill(caller: Caller, tenant: str) -> dict[str, set[str]]:
    """Store under every name; returns which names each tool took."""
    taken: dict[str, set[str]] = {"kv": set(), "artifacts": set(), "events": set()}
    for name in HOSTILE:
        text = of(tenant, name)
        if await tool_or_refusal(caller, "kv_set", key=name, value=text):
            taken["kv"].add(name)
        if await tool_or_refusal(caller, "artifacts_put", key=name, content=text):
            taken["artifacts"].add(name)
        if await tool_or_refusal(caller, "events_send", topic=name, data=text):
            taken["events"].add(name)
    return taken


async def everything(caller: Caller) -> bytes:
    """All that a tenant can get to see by lists and reads without naming anything."""
    seen = [
        await caller.use("kv_list", limit=1000),
        await caller.use("artifacts_list", limit=1000),
        await caller.use("events_read", limit=1000),
        await caller.use("events_read", topic="*", limit=1000),
        await caller.ask("resources/list"),
        await caller.ask("resources/templates/list"),
    ]
    return msgspec.json.encode(seen)


async def test_no_name_reaches_what_another_tenant_stored(mesh: StorageMesh) -> None:
    callers = {tenant: mesh.caller(tenant) for tenant in TENANTS}
    filled = await asyncio.gather(*(fill(callers[tenant], tenant) for tenant in TENANTS))
    assert filled[0] == filled[1]
    assert all(len(names) >= len(HOSTILE) - 1 for names in filled[0].values()), filled[0]
    for tenant, other in (TENANTS, TENANTS[::-1]):
        caller = callers[tenant]
        for name in filled[0]["kv"]:
            assert (await caller.use("kv_get", key=name))["value"] == of(tenant, name)
        for name in filled[0]["artifacts"]:
            got = await caller.use("artifacts_get", key=name)
            assert got["text"] == of(tenant, name)
            assert (await caller.read(got["uri"]))["text"] == of(tenant, name)
            assert (await caller.use("artifacts_get", key=name, offset=0, length=1000))[
                "text"
            ] == of(tenant, name)
        for name in filled[0]["events"]:
            page = await caller.use("events_read", topic=name, limit=1000)
            mine = [one["data"] for one in page["events"] if one["topic"] == name]
            assert mine == [of(tenant, name)]
            text = (await caller.read(uri_of(EVENTS_ROOT, name)))["text"]
            assert of(other, "") not in text
        assert f"content of {other}".encode() not in await everything(caller)


async def test_no_write_or_deletion_changes_what_another_tenant_stored(mesh: StorageMesh) -> None:
    mine, theirs = mesh.caller(ACME), mesh.caller(OTHER)
    taken = await fill(theirs, OTHER)
    revision = 0
    for name in HOSTILE:
        assert (await tool_or_refusal(mine, "kv_delete", key=name) or {}).get("deleted") is not True
        gone = await tool_or_refusal(mine, "artifacts_delete", key=name)
        assert gone is None or gone["deleted"] is False
        # Their revision is no revision here.
        known = await theirs.use("kv_get", key=name) if name in taken["kv"] else {}
        revision = known.get("revision", revision) or 1
        swapped = await tool_or_refusal(
            mine, "kv_compare_and_set", key=name, value="mine", expectedRevision=revision
        )
        assert swapped is None or swapped["stored"] is False
        await tool_or_refusal(mine, "kv_set", key=name, value="mine", ttl=1)
        await tool_or_refusal(mine, "artifacts_put", key=name, content="mine")
        await tool_or_refusal(mine, "artifacts_delete", key=name)
    for name in taken["kv"]:
        assert (await theirs.use("kv_get", key=name))["value"] == of(OTHER, name)
    for name in taken["artifacts"]:
        assert (await theirs.use("artifacts_get", key=name))["text"] == of(OTHER, name)


async def test_no_uri_cursor_or_position_leads_to_another_tenant(mesh: StorageMesh) -> None:
    mine, theirs = mesh.caller(ACME), mesh.caller(OTHER)
    for number in range(3):
        await theirs.use("artifacts_put", key=f"secret{number}", content="secret content")
        await theirs.use("kv_set", key=f"secret{number}", value="secret content")
        await theirs.use("events_send", topic="secret", data="secret content")
    for path in (
        "secret0",
        "../other/secret0",
        "%2e%2e/other/secret0",
        "..%2f..%2fOBJ_mesh_t_other%2fsecret0",
        "/other/secret0",
        "other@secret0",
        quote("artifacts/secret0", safe=""),
        "secret0?offset=0",
        "secret0?tenant=other",
        "secret0#other",
        "*",
    ):
        for root in (ARTIFACTS_ROOT, "mesh://other@artifacts/", "mesh://other/artifacts/"):
            answer = await mine.ask("resources/read", uri=root + path)
            assert "error" in answer, answer
            assert "secret content" not in str(answer)
        answer = await mine.ask("resources/read", uri=EVENTS_ROOT + path)
        assert "secret content" not in str(answer)
    for tool in ("kv_list", "artifacts_list"):
        cursor = (await theirs.use(tool, limit=1))["cursor"]
        assert not any(found for found in (await mine.use(tool, cursor=cursor)).values() if found)
    position = (await theirs.use("events_read"))["events"][0]["position"]
    assert (await mine.use("events_read", position=position))["events"] == []


@pytest.mark.parametrize("name", ["shared", "../x", "a b", "*"])
async def test_nobody_hears_of_what_happens_in_another_tenant(mesh: StorageMesh, name: str) -> None:
    mine, theirs = mesh.caller(ACME), mesh.caller(OTHER)
    artifact, topic = uri_of(ARTIFACTS_ROOT, name), uri_of(EVENTS_ROOT, name)
    live = asyncio.create_task(_first_live(mine))
    async with mine.watching(artifact, topic, ARTIFACTS_ROOT, EVENTS_ROOT) as heard:
        await theirs.use("artifacts_put", key=name, content="theirs")
        await theirs.use("events_send", topic=name, data="theirs")
        await theirs.use("artifacts_delete", key=name)
        # Our own come after theirs, on the same way: what is heard first is ours.
        await mine.use("events_send", topic="own", data="mine")
        assert (await live)["data"] == "mine"
        assert (await heard.next())["params"]["uri"] == uri_of(EVENTS_ROOT, "own")
        await mine.use("artifacts_put", key="own", content="mine")
        assert (await heard.next())["params"]["uri"] == uri_of(ARTIFACTS_ROOT, "own")


async def _first_live(caller: Caller) -> Any:
    async with caller.stream(
        "tools/call",
        {"progressToken": "p"},
        name="events_subscribe",
        arguments={"seconds": 10, "position": 0},
    ) as live:
        return msgspec.json.decode((await live.next())["params"]["message"])
