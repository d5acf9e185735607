"""Large artifacts are stored while they arrive, and given while they are read: whole or not."""

import base64
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.integration.storage_rig import ACME, STORING, Caller, StorageMesh, storage_mesh

from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import StorageConfig
from tool_runner.drivers.storage import Artifact
from tool_runner.toolsets.arriving import Arriving

KB, MB = 1024, 1024 * 1024


@pytest_asyncio.fixture
async def mesh(broker: object, connect_bus: Any, tmp_path: Path) -> AsyncIterator[StorageMesh]:
    storage = StorageConfig(tenants={"other": 2 * MB})
    async with storage_mesh(connect_bus, tmp_path, storage=storage) as made:
        yield made


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of what was stored while it came."""
    seen: list[str] = []
    commit = Arriving.commit

    async def noted(self: Arriving, content_type: str) -> Artifact:
        seen.append(self.key)
        return await commit(self, content_type)

    monkeypatch.setattr(Arriving, "commit", noted)
    return seen


def text_of(size: int) -> str:
    """Text that needs every kind of escape, and characters of one to four bytes."""
    made = random.Random(size)
    words = ('a "quoted" word', "\\back\\slash\\\\", "zeile\n\ttab", "né€", "\U0001f600", "/", "x")
    text = "".join(made.choices(words, k=size // 6))
    return text[:size]


async def bodies(mesh: StorageMesh, tenant: str = ACME) -> int:
    """Bodies of which chunks are kept: those that nobody sees are gone but for an empty rest."""
    operator = await mesh.connect("operator", "operator")
    try:
        asked = msgspec.json.encode({"subjects_filter": f"$O.mesh_t_{tenant}.C.>"})
        info = f"$JS.API.STREAM.INFO.OBJ_mesh_t_{tenant}"
        reply = await operator.request(info, asked, timeout_s=5.0)
        return len(msgspec.json.decode(reply.payload)["state"].get("subjects") or {})
    finally:
        await operator.close()


async def stored(caller: Caller, key: str) -> bytes:
    """What a read of the artifact gives."""
    found = await caller.read(f"mesh://artifacts/{key}")
    return found["text"].encode() if "text" in found else base64.b64decode(found["blob"])


@pytest.mark.parametrize("last", ["content", "contentType"])
async def test_large_text_is_stored_while_it_comes(
    mesh: StorageMesh, committed: list[str], last: str
) -> None:
    caller, text = mesh.caller(ACME), text_of(900 * KB)
    arguments = {"key": "a", "contentType": "text/markdown", "content": text}
    arguments[last] = arguments.pop(last)
    made = await caller.use("artifacts_put", **arguments)
    assert committed == ["a"]
    assert made["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (made["size"], made["contentType"]) == (len(text.encode()), "text/markdown")
    assert await stored(caller, "a") == text.encode()


@pytest.mark.parametrize("size", [3 * MB, 3 * MB + 1, 3 * MB + 2])
async def test_large_bytes_are_stored_while_they_come(
    mesh: StorageMesh, committed: list[str], size: int
) -> None:
    caller, body = mesh.caller(ACME), os.urandom(size)
    made = await caller.use("artifacts_put", key="b", data=base64.b64encode(body).decode())
    assert committed == ["b"]
    assert made["sha256"] == hashlib.sha256(body).hexdigest()
    assert made["contentType"] == "application/octet-stream"
    assert await stored(caller, "b") == body


async def test_body_that_tells_its_key_last_is_stored_all_the_same(
    mesh: StorageMesh, committed: list[str]
) -> None:
    caller, text = mesh.caller(ACME), text_of(400 * KB)
    await caller.use("artifacts_put", content=text, key="late")
    assert committed == []
    assert await stored(caller, "late") == text.encode()


async def test_what_is_wrong_about_a_large_put_leaves_nothing(mesh: StorageMesh) -> None:
    caller, text = mesh.caller(ACME), text_of(400 * KB)
    await caller.use("artifacts_put", key="a", content="before")
    data = base64.b64encode(os.urandom(300 * KB)).decode()
    wrong: list[tuple[dict[str, object], str]] = [
        ({"content": text, "contentType": "nonsense"}, "media type"),
        ({"content": text, "contentType": "text/plain; charset=latin-1"}, "UTF-8"),
        ({"content": text, "data": "eA=="}, "one of them"),
        ({"content": text, "typo": 1}, "typo"),
        ({"data": data + "!"}, "base64"),
        ({"data": "QQ==" + data}, "base64"),
        ({"data": data[:-1]}, "base64"),
    ]
    for more, expected in wrong:
        result = await caller.call("artifacts_put", key="a", **more)
        assert result["isError"], expected
        assert expected in result["content"][0]["text"], result
    assert await stored(caller, "a") == b"before"
    await eventually(lambda: _only(mesh, 1))


async def _only(mesh: StorageMesh, count: int) -> bool:
    return await bodies(mesh) == count


async def test_text_that_is_none_or_names_two_keys_is_refused(mesh: StorageMesh) -> None:
    caller, text = mesh.caller(ACME), "x" * (400 * KB)
    for arguments in (
        f'{{"key":"a","content":"{text}\\ud800"}}',
        f'{{"key":"a","content":"{text}","key":"b"}}',
    ):
        answer = await caller.ask("tools/call", name="artifacts_put", arguments=_raw(arguments))
        assert answer["error"]["data"]["outcome"] == "not_executed", answer
    assert (await caller.use("artifacts_list"))["artifacts"] == []
    await eventually(lambda: _only(mesh, 0))


def _raw(text: str) -> Any:
    return msgspec.Raw(text.encode())


async def test_nothing_is_written_for_a_caller_who_may_not(
    mesh: StorageMesh, committed: list[str]
) -> None:
    await mesh.caller(ACME).use("artifacts_put", key="a", content="before")
    reader = mesh.caller(ACME, *(STORING - {"PutArtifacts"}))
    answer = await reader.ask(
        "tools/call", name="artifacts_put", arguments={"key": "a", "content": "x" * (400 * KB)}
    )
    assert "PutArtifacts" in answer["error"]["message"]
    assert committed == []
    assert await bodies(mesh) == 1


async def test_quota_that_ends_in_mid_body_is_one_clear_error(mesh: StorageMesh) -> None:
    caller = mesh.caller("other")
    result = await caller.call("artifacts_put", key="a", content="x" * (3 * MB))
    assert result["isError"]
    assert f"of {2 * MB} bytes are used" in result["content"][0]["text"]
    await caller.use("artifacts_put", key="a", content="x" * MB)


async def test_large_put_with_an_idempotency_key_is_done_once(mesh: StorageMesh) -> None:
    caller, text = mesh.caller(ACME), text_of(400 * KB)

    async def put(content: str) -> Any:
        arguments = {"key": "a", "content": content}
        return await caller.ask(
            "tools/call", name="artifacts_put", arguments=arguments, meta={IDEMPOTENCY_KEY: "k1"}
        )

    first = await put(text)
    assert first["result"]["structuredContent"]["size"] == len(text.encode())
    assert (await put(text))["result"]["structuredContent"] == first["result"]["structuredContent"]
    assert "error" in await put(text + "y")
