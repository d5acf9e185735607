"""The storage tools as a client sees them: through a gateway, over HTTP, on a real broker."""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.integration.storage_rig import ACME, STORING, StorageMesh, storage_mesh

from mcp_proto.types.meta import LOG_LEVEL
from tool_runner.config import StorageConfig

KB, MB = 1024, 1024 * 1024


@pytest_asyncio.fixture
async def mesh(broker, connect_bus, tmp_path: Path) -> AsyncIterator[StorageMesh]:
    async with storage_mesh(connect_bus, tmp_path, runners=2) as made:
        yield made


async def test_every_storage_tool_is_listed_with_schemas_annotations_and_its_permission(
    mesh: StorageMesh,
) -> None:
    listed = (await mesh.caller(ACME).ask("tools/list"))["result"]["tools"]
    tools = {one["name"]: one for one in listed if one["name"].partition("_")[0] != "tools"}
    assert {
        "kv_get", "kv_set", "kv_compare_and_set", "kv_delete", "kv_list",
        "artifacts_put", "artifacts_get", "artifacts_list", "artifacts_delete",
        "events_send", "events_read", "events_subscribe", "echo",
    } <= set(tools)  # fmt: skip
    for one in tools.values():
        assert one["inputSchema"]["additionalProperties"] is False, one["name"]
        assert one["outputSchema"]["type"] == "object"
        assert one["annotations"]["openWorldHint"] is False
    viewer = mesh.caller(ACME, "ReadKV", "GetArtifacts", "ListArtifacts", "ReadEvents")
    seen = {one["name"] for one in (await viewer.ask("tools/list"))["result"]["tools"]}
    assert {"kv_get", "kv_list", "artifacts_get", "artifacts_list", "events_read"} <= seen
    assert not seen & {"kv_set", "kv_compare_and_set", "artifacts_put", "events_send", "echo"}


async def test_compare_and_set_tells_who_was_faster(mesh: StorageMesh) -> None:
    caller = mesh.caller(ACME)
    made = await caller.use("kv_compare_and_set", key="n", value=1, expectedRevision=0)
    assert made["stored"] is True
    later = await caller.use("kv_set", key="n", value=2)
    lost = await caller.use(
        "kv_compare_and_set", key="n", value=3, expectedRevision=made["revision"]
    )
    assert lost == {"key": "n", "stored": False, "revision": later["revision"]}
    assert (await caller.use("kv_get", key="n"))["value"] == 2


async def test_artifact_goes_in_and_out_as_text_bytes_and_image(mesh: StorageMesh) -> None:
    caller = mesh.caller(ACME)
    made = await caller.use("artifacts_put", key="notes/a.md", content="# né")
    assert made["contentType"] == "text/plain; charset=utf-8"
    assert made["uri"] == "mesh://artifacts/notes/a.md"
    assert made["sha256"] == hashlib.sha256("# né".encode()).hexdigest()
    result = await caller.call("artifacts_get", key="notes/a.md")
    assert result["content"] == [{"type": "text", "text": "# né"}]
    assert result["structuredContent"] == {"found": True, **made, "text": "# né"}

    pixel = base64.b64encode(os.urandom(300)).decode()
    await caller.use("artifacts_put", key="p.png", data=pixel, contentType="image/png")
    result = await caller.call("artifacts_get", key="p.png")
    assert result["content"] == [{"type": "image", "data": pixel, "mimeType": "image/png"}]
    assert result["structuredContent"]["data"] == pixel

    await caller.use("artifacts_put", key="empty", content="")
    result = await caller.call("artifacts_get", key="empty")
    assert result["structuredContent"]["text"] == ""
    assert (await caller.read("mesh://artifacts/empty"))["text"] == ""

    listed = await caller.use("artifacts_list", prefix="n")
    assert listed["artifacts"] == [made]
    assert await caller.use("artifacts_delete", key="notes/a.md") == {
        "key": "notes/a.md",
        "deleted": True,
    }
    assert await caller.use("artifacts_get", key="notes/a.md") == {
        "found": False,
        "key": "notes/a.md",
    }


async def test_what_cannot_be_stored_is_an_error_that_a_model_can_act_on(
    mesh: StorageMesh,
) -> None:
    caller = mesh.caller(ACME)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"key": "a"}, "content"),
        ({"key": "a", "content": "x", "data": "eA=="}, "one of them"),
        ({"key": "a", "data": "no base64!"}, "base64"),
        ({"key": "a", "content": "x", "contentType": "nonsense"}, "media type"),
        ({"key": "a", "content": "x", "contentType": "text/plain\r\nx: y"}, "media type"),
        ({"key": "a", "content": "x", "contentType": "text/plain; charset=latin-1"}, "UTF-8"),
        ({"key": "", "content": "x"}, "key"),
        ({"key": "x" * 257, "content": "x"}, "key"),
        ({"key": "a", "content": "x", "typo": 1}, "typo"),
    ]
    for arguments, expected in wrong:
        result = await caller.call("artifacts_put", **arguments)
        assert result["isError"], arguments
        assert expected in result["content"][0]["text"], result
    assert (await caller.use("artifacts_list"))["artifacts"] == []
    answer = await caller.ask(
        "tools/call", name="artifacts_put", arguments={"key": "é" * 200, "content": "x"}
    )
    assert answer["error"]["data"]["outcome"] == "not_executed"


async def test_large_artifact_is_linked_and_read_whole_or_in_ranges(mesh: StorageMesh) -> None:
    caller = mesh.caller(ACME)
    body = os.urandom(6 * MB)
    data = base64.b64encode(body).decode()
    made = await caller.use("artifacts_put", key="big file", data=data)
    result = await caller.call("artifacts_get", key="big file")
    link = result["content"][1]
    assert link["type"] == "resource_link"
    assert link["uri"] == made["uri"] == "mesh://artifacts/big%20file"
    assert link["size"] == len(body)
    assert "data" not in result["structuredContent"]
    whole = await caller.read(link["uri"])
    assert base64.b64decode(whole["blob"]) == body
    found, uri = b"", f"{link['uri']}?offset=0&length={2 * MB}"
    while uri:
        piece = await caller.read(uri)
        found += base64.b64decode(piece["blob"])
        uri = piece["_meta"]["mesh/range"].get("next", "")
    assert found == body
    ranged = await caller.use("artifacts_get", key="big file", offset=5, length=700)
    assert base64.b64decode(ranged["data"]) == body[5:705]
    assert (ranged["offset"], ranged["length"]) == (5, 700)
    end = await caller.use("artifacts_get", key="big file", offset=6 * MB - 1)
    assert base64.b64decode(end["data"]) == body[-1:]
    outside = await caller.ask("resources/read", uri=f"{link['uri']}?offset={7 * MB}")
    assert outside["error"]["data"]["size"] == len(body)
    for uri in ("mesh://artifacts/", "mesh://artifacts/nothing", f"{link['uri']}?offset=-1"):
        assert (await caller.ask("resources/read", uri=uri))["error"]["code"] == -32602


async def test_reading_an_artifact_takes_the_permission_of_the_tool_and_no_other(
    mesh: StorageMesh,
) -> None:
    made = await mesh.caller(ACME).use("artifacts_put", key="a", content="x")
    reader = mesh.caller(ACME, "GetArtifacts")
    assert (await reader.read(made["uri"]))["text"] == "x"
    templates = (await reader.ask("resources/templates/list"))["result"]["resourceTemplates"]
    seen = {one["uriTemplate"] for one in templates} - {"mesh://results/{id}{?offset,length}"}
    assert seen == {"mesh://artifacts/{+key}{?offset,length}"}
    others = mesh.caller(ACME, *(STORING - {"GetArtifacts"}))
    refused = await others.ask("resources/read", uri=made["uri"])
    assert refused["error"]["code"] == -31003
    assert "GetArtifacts" in refused["error"]["data"]["missing"]
    assert (await others.ask("tools/call", name="artifacts_get", arguments={"key": "a"}))["error"][
        "code"
    ] == -31003


async def test_change_of_an_artifact_is_told_to_whoever_watches_it_or_its_folder(
    mesh: StorageMesh,
) -> None:
    caller = mesh.caller(ACME)
    async with (
        caller.watching("mesh://artifacts/logs/1") as one,
        caller.watching("mesh://artifacts/logs/") as folder,
    ):
        for n in range(4):  # whichever runner gets it
            await caller.use("artifacts_put", key="logs/1", content=str(n))
            assert (await one.next())["params"]["uri"] == "mesh://artifacts/logs/1"
            assert (await folder.next())["params"]["uri"] == "mesh://artifacts/logs/1"
        await caller.use("artifacts_put", key="elsewhere", content="x")
        await caller.use("artifacts_delete", key="logs/1")
        assert (await one.next())["params"]["uri"] == "mesh://artifacts/logs/1"
        assert (await folder.next())["params"]["uri"] == "mesh://artifacts/logs/1"


async def test_events_are_sent_read_and_waited_for(mesh: StorageMesh) -> None:
    caller = mesh.caller(ACME)
    first = await caller.use("events_send", topic="tasks:high_priority", data={"n": 1})
    await caller.use("events_send", topic="other")
    page = await caller.use("events_read", topic="tasks:*")
    (event,) = page["events"]
    assert event["position"] == first["position"]
    assert (event["topic"], event["data"]) == ("tasks:high_priority", {"n": 1})
    assert event["source"] == "acme-user"
    waiting = asyncio.create_task(
        caller.use("events_read", position=page["nextPosition"], waitSeconds=10)
    )
    everything = await caller.use("events_read")
    assert [one["topic"] for one in everything["events"]] == ["tasks:high_priority", "other"]
    assert everything["events"][1]["data"] is None
    await caller.use("events_send", topic="later", data=[2.50])
    found = (await waiting)["events"]
    assert found[-1]["topic"] in {"other", "later"}


@pytest.mark.slow
async def test_live_subscription_gives_each_event_on_the_stream_of_its_call(
    mesh: StorageMesh,
) -> None:
    caller = mesh.caller(ACME)
    arguments = {"topic": "t*", "seconds": 5, "position": 0}
    await caller.use("events_send", topic="t0", data="kept")
    async with caller.stream(
        "tools/call",
        {"progressToken": "p"},
        name="events_subscribe",
        arguments=arguments,
    ) as events:
        heard = [await events.next()]
        for n in (1, 2):
            await caller.use("events_send", topic="unheard")
            await caller.use("events_send", topic=f"t{n}", data=n)
            heard.append(await events.next())
        assert [one["method"] for one in heard] == ["notifications/progress"] * 3
        assert [one["params"]["progress"] for one in heard] == [1, 2, 3]
        told = [msgspec.json.decode(one["params"]["message"]) for one in heard]
        assert [(one["topic"], one["data"]) for one in told] == [
            ("t0", "kept"),
            ("t1", 1),
            ("t2", 2),
        ]
        result = (await events.next(10.0))["result"]["structuredContent"]
        assert result["delivered"] == 3
        assert result["nextPosition"] > told[-1]["position"]


async def test_live_subscription_of_a_client_without_progress_comes_as_messages(
    mesh: StorageMesh,
) -> None:
    caller = mesh.caller(ACME)
    await caller.use("events_send", topic="t", data="kept")
    async with caller.stream(
        "tools/call",
        {LOG_LEVEL: "info"},
        name="events_subscribe",
        arguments={"seconds": 0.5, "position": 0},
    ) as events:
        message = await events.next()
        assert message["method"] == "notifications/message"
        assert message["params"]["data"]["data"] == "kept"


async def test_watched_topic_is_told_of_events_of_any_sender(
    mesh: StorageMesh, connect_bus
) -> None:
    caller = mesh.caller(ACME)
    async with (
        caller.watching("mesh://events/tasks:high") as one,
        caller.watching("mesh://events/") as every,
    ):
        await caller.use("events_send", topic="tasks:high", data=1)
        assert (await one.next())["params"]["uri"] == "mesh://events/tasks:high"
        assert (await every.next())["params"]["uri"] == "mesh://events/tasks:high"
        program = await connect_bus("operator", "operator")
        await program.publish("mesh.v1.acme.topic.native", b'{"by": "a program"}')
        assert (await every.next())["params"]["uri"] == "mesh://events/native"
    text = (await caller.read("mesh://events/native?position=0&limit=5"))["text"]
    assert msgspec.json.decode(text)["events"][0]["data"] == {"by": "a program"}


async def test_full_quota_is_one_clear_error_for_every_tool_that_stores(
    broker, connect_bus, tmp_path: Path
) -> None:
    storage = StorageConfig(bytes_per_tenant=MB, tenants={"other": 2 * MB})
    async with storage_mesh(connect_bus, tmp_path, storage=storage) as mesh:
        acme, other = mesh.caller(ACME), mesh.caller("other")
        large = "x" * (700 * KB)
        await acme.use("artifacts_put", key="a", content=large)
        for tool, arguments in (
            ("artifacts_put", {"key": "b", "content": large}),
            ("kv_set", {"key": "v", "value": "x" * (400 * KB)}),
            ("kv_compare_and_set", {"key": "v", "value": "x" * (400 * KB), "expectedRevision": 0}),
        ):
            result = await acme.call(tool, **arguments)
            assert result["isError"]
            text = result["content"][0]["text"]
            assert f"of {MB} bytes are used" in text
            assert "delete" in text
        assert [one["key"] for one in (await acme.use("artifacts_list"))["artifacts"]] == ["a"]
        for key in "ab":
            await other.use("artifacts_put", key=key, content=large)
        await acme.use("artifacts_delete", key="a")
        await acme.use("artifacts_put", key="b", content=large)
