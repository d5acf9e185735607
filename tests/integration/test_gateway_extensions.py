"""Extensions through the gateway: skills of several servers as one list, apps and links intact."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest_asyncio

from gateway.testing import (
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.testing.conditions import eventually

SKILLS = "io.modelcontextprotocol/skills"
UI = "io.modelcontextprotocol/ui"


def declaring(**extensions: dict[str, object]) -> msgspec.Raw:
    names = {"skills": SKILLS, "ui": UI}
    known = {names[key]: settings for key, settings in extensions.items()}
    return msgspec.Raw(msgspec.json.encode({"extensions": {**known, "com.example/odd": {}}}))


def entry(name: str) -> dict[str, object]:
    uri = f"skill://{name}/SKILL.md"
    return {
        "uri": uri,
        "frontmatter": {"name": name, "description": "d"},
        "resources": [{"uri": uri, "digest": "sha256:" + "0" * 64, "size": 1}],
    }


async def listed(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
    """Two pages, by a cursor of the server's own."""
    more = "cursor" not in params
    result: dict[str, object] = {
        "resultType": "complete",
        "skills": [entry("pdf" if more else "xls")],
        "ttlMs": 9_000 if more else 4_000,
        "cacheScope": "public",
    }
    return msgspec.json.encode({**result, "nextCursor": "n"} if more else result)


async def one(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
    uri = msgspec.json.decode(params["uri"])
    if uri != "skill://pdf/SKILL.md":
        raise MeshError(ErrorKind.NOT_FOUND, "unknown skill", data={"uri": uri})
    result = {"resultType": "complete", "skill": entry("pdf"), "ttlMs": 1, "cacheScope": "public"}
    return msgspec.json.encode(result)


async def read(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
    uri = msgspec.json.decode(params["uri"])
    return msgspec.json.encode({"resultType": "complete", "contents": [{"uri": uri, "text": "x"}]})


async def directory(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
    entries = [{"uri": "skill://pdf/a/", "name": "a", "mimeType": "inode/directory"}]
    return msgspec.json.encode({"resultType": "complete", "resources": entries})


async def broken(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
    raise MeshError(ErrorKind.UPSTREAM, "does not work")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        for name in ("docs", "legal"):
            settings = {"directoryRead": True} if name == "docs" else {}
            await parts.put_server(name, tool("t"), capabilities=declaring(skills=settings))
            parts.scripts |= {
                f"{name}:skills/list": listed,
                f"{name}:skills/get": one,
                f"{name}:resources/read": read,
                f"{name}:resources/directory/read": directory,
            }
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


async def post(client: httpx.AsyncClient, method: str, path: str = "/mcp", **params: object) -> Any:
    body, headers = modern(method, 1, **params)
    return await client.post(path, content=body, headers=headers)


async def ask(client: httpx.AsyncClient, method: str, path: str = "/mcp", **params: object) -> Any:
    return (await post(client, method, path, **params)).json()


async def test_skills_of_all_servers_are_one_list_of_all_pages(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    result = (await ask(client, "skills/list"))["result"]
    assert [one["uri"] for one in result["skills"]] == [
        f"skill://{server}/{name}/SKILL.md"
        for server in ("docs", "legal")
        for name in ("pdf", "xls")
    ]
    assert (result["ttlMs"], result["cacheScope"]) == (4_000, "private")
    around.scripts["legal:skills/list"] = broken
    result = (await ask(client, "skills/list"))["result"]
    assert [one["uri"] for one in result["skills"]] == [
        "skill://docs/pdf/SKILL.md",
        "skill://docs/xls/SKILL.md",
    ]
    assert result["ttlMs"] == 0


async def test_a_skill_and_its_files_come_from_their_server(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    uri = "skill://legal/pdf/SKILL.md"
    result = (await ask(client, "skills/get", uri=uri))["result"]
    assert result["skill"]["uri"] == result["skill"]["resources"][0]["uri"] == uri
    assert result["cacheScope"] == "private"
    assert around.seen[-1].subject.names[0] == "legal"
    file = "skill://legal/pdf/a/b.md"
    contents = (await ask(client, "resources/read", uri=file))["result"]["contents"]
    assert contents == [{"uri": file, "text": "x"}]
    assert around.seen[-1].subject.names[0] == "legal"
    found = await ask(client, "resources/directory/read", uri="skill://docs/pdf/")
    assert found["result"]["resources"][0]["uri"] == "skill://docs/pdf/a/"
    for unknown in ("skill://nobody/pdf/SKILL.md", "skill://docs/none/SKILL.md"):
        error = (await ask(client, "skills/get", uri=unknown))["error"]
        assert error["code"] == -32602


async def test_one_servers_endpoint_shows_its_skills_as_they_are(
    client: httpx.AsyncClient,
) -> None:
    path = "/mcp/u/docs"
    result = (await ask(client, "skills/list", path))["result"]
    assert result["skills"][0] == entry("pdf")
    got = (await ask(client, "skills/get", path, uri="skill://pdf/SKILL.md"))["result"]
    assert got["skill"] == entry("pdf")
    contents = (await ask(client, "resources/read", path, uri="skill://pdf/x"))["result"]
    assert contents["contents"][0]["uri"] == "skill://pdf/x"


async def test_an_extension_nobody_declares_is_no_method(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    found = (await ask(client, "server/discover"))["result"]["capabilities"]["extensions"]
    assert found[SKILLS] == {"directoryRead": True}
    assert "com.example/odd" not in found
    for server in ("docs", "legal"):
        await around.remove_server(server)

    async def gone() -> bool:
        return (await post(client, "skills/list")).status_code == 404

    await eventually(gone)
    answer = await post(client, "example/method")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)
    found = (await ask(client, "server/discover"))["result"]["capabilities"]["extensions"]
    assert SKILLS not in found


async def test_an_app_travels_intact_and_follows_its_renamed_resource(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    ui = {"resourceUri": "ui://view", "csp": {"connectDomains": ["https://a"]}, "x": 1}
    view = msgspec.Raw(b'{"uri":"ui://view","name":"v","mimeType":"text/html;profile=mcp-app"}')
    for name in ("one", "two"):
        await around.put_server(
            name,
            tool("show", _meta={"ui": ui, "k": [1]}),
            resources=(view,),
            capabilities=declaring(ui={}),
        )
        around.scripts[f"{name}:resources/read"] = read

    async def there() -> bool:
        tools = (await ask(client, "tools/list"))["result"]["tools"]
        return {"one__show", "two__show"} <= {one["name"] for one in tools}

    await eventually(there)
    tools = {one["name"]: one for one in (await ask(client, "tools/list"))["result"]["tools"]}
    assert tools["one__show"]["_meta"] == {"ui": ui, "k": [1]}
    renamed = "mesh://two/ui%3A%2F%2Fview"
    assert tools["two__show"]["_meta"] == {"ui": {**ui, "resourceUri": renamed}, "k": [1]}
    contents = (await ask(client, "resources/read", uri=renamed))["result"]["contents"]
    assert contents[0]["uri"] == renamed
    assert around.seen[-1].subject.names[0] == "two"
    found = (await ask(client, "server/discover"))["result"]["capabilities"]["extensions"]
    assert found[UI] == {}


async def test_links_in_results_lead_to_the_server_that_gave_them(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    note = msgspec.Raw(b'{"uri":"note:1","name":"n"}')
    link = {"type": "resource_link", "uri": "note:1", "name": "n"}
    embedded = {"type": "resource", "resource": {"uri": "note:1", "text": "x"}}

    async def called(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
        return msgspec.json.encode({"resultType": "complete", "content": [link, embedded]})

    async def prompted(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
        messages = [{"role": "user", "content": embedded}]
        return msgspec.json.encode({"resultType": "complete", "messages": messages})

    async def many(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
        assert msgspec.json.decode(params["ref"])["uri"] == "note:1"
        completion = {"values": [str(n) for n in range(150)]}
        return msgspec.json.encode({"resultType": "complete", "completion": completion})

    for name in ("one", "two"):
        await around.put_server(
            name,
            tool("look"),
            resources=(note,),
            prompts=(msgspec.Raw(b'{"name":"hello"}'),),
            capabilities=msgspec.Raw(b'{"completions":{}}'),
        )
        around.scripts |= {
            f"{name}:look": called,
            f"{name}:prompts/get": prompted,
            f"{name}:completion/complete": many,
        }

    async def there() -> bool:
        return "result" in await ask(client, "tools/call", name="two__look", arguments={})

    await eventually(there)
    renamed = "mesh://two/note%3A1"
    for server, uri in (("one", "note:1"), ("two", renamed)):
        got = (await ask(client, "tools/call", name=f"{server}__look", arguments={}))["result"]
        assert got["content"][0] == {**link, "uri": uri}
        assert got["content"][1]["resource"] == {"uri": uri, "text": "x"}
        prompt = (await ask(client, "prompts/get", name=f"{server}__hello"))["result"]
        assert prompt["messages"][0]["content"]["resource"]["uri"] == uri
    done = await ask(
        client,
        "completion/complete",
        ref={"type": "ref/resource", "uri": renamed},
        argument={"name": "a", "value": ""},
    )
    completion = done["result"]["completion"]
    assert (len(completion["values"]), completion["hasMore"]) == (100, True)
    assert around.seen[-1].subject.names[0] == "two"


async def test_a_result_without_renamed_resources_is_not_touched(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    async def plain(call: Any, params: dict[str, msgspec.Raw]) -> bytes:
        return text_result("x")

    around.scripts["docs:t"] = plain
    got = (await ask(client, "tools/call", name="docs__t", arguments={}))["result"]
    assert got["content"] == [{"type": "text", "text": "x"}]
