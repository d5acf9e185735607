"""Tools of a real HTTP API on a socket of its own, described by a document that it serves."""

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_types import server_problem
from tool_runner.server_types.openapi.server import OpenApiServer
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http_link import LinkSettings
from tool_runner.upstreams.upstream import Request

DOCUMENT: dict[str, Any] = json.loads(
    (Path(__file__).parent / "documents" / "pets.json").read_text()
)


class Api:
    """The API itself; ``seen`` = the requests that reached it, as they came over the wire."""

    def __init__(self) -> None:
        self.document: dict[str, Any] | bytes = DOCUMENT
        self.seen: list[web.Request] = []
        self.pets: dict[str, Any] = {"1": {"id": 1, "name": "Ada", "tag": None}}
        self._runner: web.AppRunner | None = None
        self._over = asyncio.Event()

    async def start(self) -> "Api":
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/openapi.json", self._describe)
        app.router.add_get("/api/pets", self._list)
        app.router.add_post("/api/pets", self._add)
        app.router.add_route("*", "/api/pets/{id}", self._pet)
        app.router.add_route("*", "/api/echo", self._echo)
        app.router.add_get("/api/say/{what}", self._say)
        app.router.add_get("/api/pet/{what}", self._say)
        app.router.add_get("/api/files/{path}/raw", self._file)
        app.router.add_get("/admin", self._admin)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        self._over.set()
        await self._runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append(request)
        return await handler(request)

    async def _describe(self, _request: web.Request) -> web.Response:
        if isinstance(self.document, bytes):
            return web.Response(body=self.document)
        return web.json_response(self.document)

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(list(self.pets.values()))

    async def _add(self, request: web.Request) -> web.Response:
        pet = await request.json()
        if pet["name"] == "taken":
            return web.json_response({"error": "name is taken", "field": "name"}, status=409)
        return web.json_response({**pet, "id": 2}, status=201)

    async def _pet(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return web.Response(status=204)
        if request.method == "PUT":
            self.pets[request.match_info["id"]] = await request.json()
            return web.Response(status=204)
        found = self.pets.get(request.match_info["id"])
        if found is None:
            return web.json_response({"error": "no such pet"}, status=404)
        return web.json_response(found)

    async def _file(self, request: web.Request) -> web.Response:
        return web.Response(text=request.raw_path)

    async def _admin(self, _request: web.Request) -> web.Response:
        return web.Response(text="the crown jewels")

    async def _echo(self, request: web.Request) -> web.Response:
        parts: dict[str, Any] = {}
        if request.content_type == "multipart/form-data":
            async for part in await request.multipart():
                held = await part.read(decode=False)
                parts[str(part.name)] = [held.decode("latin-1"), part.filename]
        elif request.content_type == "application/x-www-form-urlencoded":
            form = await request.post()
            parts = {key: form.getall(key) for key in form}
        else:
            parts = {"body": (await request.read()).decode("latin-1")}
        return web.json_response(
            {"parts": parts, "type": request.headers.get("Content-Type", ""),
             "headers": dict(request.headers), "query": request.query_string}
        )  # fmt: skip

    async def _say(self, request: web.Request) -> web.StreamResponse:
        what = request.match_info["what"]
        if what == "far":
            raise web.HTTPFound("http://127.0.0.2:1/steal")
        if what == "out":
            raise web.HTTPFound("http://169.254.169.254/latest/meta-data")
        if what == "hang":
            await self._over.wait()
            return web.Response()
        return SAID[what]()


SAID: dict[str, Callable[[], web.Response]] = {
    "text": lambda: web.Response(
        body="grüß".encode("latin-1"), content_type="text/plain", charset="latin-1"
    ),
    "png": lambda: web.Response(body=b"\x89PNG\0", content_type="image/png"),
    "zip": lambda: web.Response(body=b"PK\0", content_type="application/zip"),
    "broken": lambda: web.Response(body=b'{"a":', content_type="application/json"),
    "wrong": lambda: web.json_response({"id": "one", "name": 7}),
    "list": lambda: web.json_response([1, 2]),
    "nothing": web.Response,
    "500": lambda: web.json_response({"error": "database is down"}, status=500),
    "429": lambda: web.Response(status=429, headers={"Retry-After": "7"}, text="slow down"),
    "long": lambda: web.Response(status=400, text="x" * 100_000),
    "large": lambda: web.Response(body=b"x" * 5_000_000),
}


class Bench:
    def __init__(self, api: Api) -> None:
        self.api = api
        self._servers: list[OpenApiServer] = []

    def make(self, trusted: bool = True, **settings: Any) -> OpenApiServer:
        fields = settings.pop("fields", {})
        url = settings.pop("url", f"{self.api.url}/api")
        definition = ServerDefinition(
            name="pets", type="openapi", url=url, timeout_s=5.0, **fields,
            settings={"document": f"{self.api.url}/openapi.json", **settings},
        )  # fmt: skip
        problem = server_problem(definition)
        assert problem is None, problem
        network = NetworkSettings(link=LinkSettings(connect_s=1.0))
        self._servers.append(OpenApiServer(definition, network, trusted))
        return self._servers[-1]

    async def started(self, **settings: Any) -> OpenApiServer:
        server = self.make(**settings)
        self.offer = await server.start()
        self.api.seen.clear()
        return server

    async def refused(self, **settings: Any) -> str:
        with pytest.raises(MeshError) as raised:
            await self.make(**settings).start()
        assert raised.value.kind is ErrorKind.UPSTREAM
        assert raised.value.outcome is Outcome.NOT_EXECUTED
        return raised.value.message

    @staticmethod
    async def call(
        server: OpenApiServer, tool: str, timeout_s: float = 5.0, **arguments: Any
    ) -> dict[str, Any]:
        params = msgspec.json.encode({"name": tool, "arguments": arguments})
        answer = await server.call(
            Request(method="tools/call", params=msgspec.Raw(params), timeout_s=timeout_s)
        )
        assert isinstance(answer, bytes)
        return json.loads(answer)

    async def error(self, server: OpenApiServer, tool: str, **arguments: Any) -> str:
        result = await self.call(server, tool, **arguments)
        assert result.get("isError") is True, result
        return result["content"][0]["text"]

    async def fault(self, server: OpenApiServer, tool: str, **arguments: Any) -> MeshError:
        with pytest.raises(MeshError) as raised:
            await self.call(server, tool, **arguments)
        return raised.value

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
        await self.api.stop()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench(await Api().start())
    yield one
    await one.close()
    gc.collect()  # a response that nobody closed warns when it goes: in this test, not the next


# Calls


async def test_api_is_listed_and_called(bench: Bench) -> None:
    server = await bench.started()
    names = [tool.name for tool in bench.offer.tools]
    assert names[:5] == ["listPets", "addPet", "getPet", "putPet", "deletePet"]
    added = json.loads(bytes(bench.offer.tools[1].definition))
    assert added["title"] == "Add a pet"
    assert "id" not in added["inputSchema"]["properties"]["body"]["properties"]
    assert added["outputSchema"]["type"] == "object"
    assert added["annotations"]["readOnlyHint"] is False
    listed = await bench.call(server, "listPets", limit=5, tags=["a", "b c"])
    assert json.loads(listed["content"][0]["text"]) == [{"id": 1, "name": "Ada", "tag": None}]
    assert "structuredContent" not in listed
    assert bench.api.seen[-1].raw_path == "/api/pets?limit=5&tags=a,b%20c"
    made = await bench.call(server, "addPet", body={"name": "Bo"})
    assert made["structuredContent"] == {"id": 2, "name": "Bo"}
    got = await bench.call(server, "getPet", id="1")
    assert got["structuredContent"]["name"] == "Ada"
    put = await bench.call(server, "putPet", id="9", body={"name": "Cy"})
    assert "HTTP 204" in put["content"][0]["text"]
    assert (await bench.call(server, "getPet", id="9")).get("isError") is None
    assert "HTTP 204" in (await bench.call(server, "deletePet", id="1"))["content"][0]["text"]


async def test_arguments_that_do_not_fit_name_their_path_and_never_reach_the_api(
    bench: Bench,
) -> None:
    server = await bench.started()
    assert "body/name: 7 is not of type" in await bench.error(server, "addPet", body={"name": 7})
    assert '"id" is a required property' in await bench.error(server, "getPet")
    assert "limit: " in await bench.error(server, "listPets", limit="many")
    assert bench.api.seen == []


@pytest.mark.parametrize(
    "value",
    ["../../admin", "..", "..%2f..%2fadmin", "%2e%2e/%2e%2e/admin", "..\\..\\admin", "a/../../b"],
)
async def test_value_cannot_leave_its_place_in_the_path(bench: Bench, value: str) -> None:
    server = await bench.started()
    assert "no segment '.' or '..'" in await bench.error(server, "getFile", path=value)
    assert bench.api.seen == []


@pytest.mark.parametrize(
    ("value", "raw"),
    [("a/b", "a%2Fb"), ("a?x=1", "a%3Fx%3D1"), ("a#b", "a%23b"), ("a%2Fb", "a%252Fb"),
     ("/admin", "%2Fadmin"), ("ü b", "%C3%BC%20b")],
)  # fmt: skip
async def test_value_reaches_the_api_as_one_segment(bench: Bench, value: str, raw: str) -> None:
    server = await bench.started()
    said = await bench.call(server, "getFile", path=value)
    assert said["content"][0]["text"] == f"/api/files/{raw}/raw"


async def test_bodies_of_every_kind_arrive(bench: Bench) -> None:
    server = await bench.started()

    async def echoed(tool: str, body: Any) -> dict[str, Any]:
        return (await bench.call(server, tool, body=body))["structuredContent"]

    form = await echoed("form", {"a": "x&y=z", "b": [1, 2], "c": True, "d": {"e": 1}})
    assert form["parts"] == {"a": ["x&y=z"], "b": ["1", "2"], "c": ["true"], "d": ['{"e":1}']}
    packed = base64.b64encode(b"\0\xff--x").decode()
    parts = (await echoed("upload", {"note": "ü", "file": packed, 'x"\r\n': "y"}))["parts"]
    assert parts["note"][0].encode("latin-1").decode() == "ü"
    assert parts["file"] == ["\0\xff--x", "file"]
    assert len(parts) == 3
    sent = await echoed("bytes", base64.b64encode(b"\x89PNG").decode())
    assert sent["type"] == "image/png"
    assert sent["parts"]["body"] == "\x89PNG"
    assert (await echoed("text", "plain"))["type"] == "text/plain; charset=utf-8"
    assert "expected as base64" in await bench.error(server, "bytes", body="no base64!")


async def test_headers_and_cookies_are_sent_and_nobody_can_add_others(bench: Bench) -> None:
    server = await bench.started()
    given = {"X-Trace": "t1", "seen": "a;b", "where": {"a": 1}}
    said = (await bench.call(server, "look", **given))["structuredContent"]
    assert said["headers"]["X-Trace"] == "t1"
    assert said["headers"]["Cookie"] == "seen=a%3Bb"
    assert bench.api.seen[-1].raw_path == "/api/echo?where%5Ba%5D=1"
    assert "header holds printable ASCII" in await bench.error(
        server, "look", **{"X-Trace": "a\r\nX-Admin: 1"}
    )
    assert "Host" in await bench.error(server, "look", Host="evil")


# Answers


async def test_answers_that_are_no_json_are_text_image_or_resource(bench: Bench) -> None:
    server = await bench.started()

    async def said(what: str) -> dict[str, Any]:
        return (await bench.call(server, "say", what=what))["content"][0]

    assert await said("text") == {"type": "text", "text": "grüß"}
    assert await said("png") == {"type": "image", "data": "iVBORwA=", "mimeType": "image/png"}
    held = await said("zip")
    assert held["type"] == "resource"
    assert held["resource"]["mimeType"] == "application/zip"
    assert base64.b64decode(held["resource"]["blob"]) == b"PK\0"
    assert await said("list") == {"type": "text", "text": "[1, 2]"}
    assert "without content" in (await said("nothing"))["text"]


async def test_refusal_is_a_tool_error_with_status_and_what_the_api_said(bench: Bench) -> None:
    server = await bench.started()
    said = await bench.error(server, "addPet", body={"name": "taken"})
    assert "HTTP 409 Conflict" in said
    assert '"field": "name"' in said
    assert "HTTP 404" in await bench.error(server, "getPet", id="77")
    assert "Retry after: 7" in await bench.error(server, "say", what="429")
    assert len(await bench.error(server, "say", what="long")) < 3_000


async def test_failure_of_the_api_is_an_upstream_error_of_unknown_outcome(bench: Bench) -> None:
    server = await bench.started()
    error = await bench.fault(server, "say", what="500")
    assert error.kind is ErrorKind.UPSTREAM
    assert error.outcome is Outcome.UNKNOWN
    assert "HTTP 500" in error.message
    assert "database is down" in error.message


async def test_answer_that_cannot_be_read_or_is_too_large_says_that_the_call_ran(
    bench: Bench,
) -> None:
    server = await bench.started(answer_bytes_max=1_000_000)
    broken = await bench.fault(server, "say", what="broken")
    assert (broken.kind, broken.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)
    large = await bench.fault(server, "say", what="large")
    assert (large.kind, large.outcome) == (ErrorKind.TOO_LARGE, Outcome.EXECUTED)


@pytest.mark.parametrize(
    ("what", "said"),
    [("wrong", "id: "), ("list", "not of type"), ("nothing", "no JSON"), ("png", "5 bytes")],
)
async def test_answer_that_breaks_its_promise_is_shown_with_a_warning(
    bench: Bench, what: str, said: str
) -> None:
    server = await bench.started()
    text = await bench.error(server, "odd", what=what)
    assert "did what was asked (HTTP 200 OK), do not ask again" in text
    assert said in text
    plain = await bench.started(output_schemas=False)
    assert "isError" not in await bench.call(plain, "odd", what=what)


async def test_api_that_hangs_or_is_gone_is_one_clear_error(bench: Bench) -> None:
    server = await bench.started()
    with pytest.raises(MeshError) as raised:
        await bench.call(server, "say", timeout_s=0.3, what="hang")
    assert raised.value.kind is ErrorKind.DEADLINE
    await bench.api.stop()
    gone = await bench.fault(server, "say", what="text")
    assert (gone.kind, gone.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
    assert "cannot be reached" in gone.message


async def test_redirect_into_the_runners_own_net_is_not_followed(bench: Bench) -> None:
    server = await bench.started()
    for what in ("far", "out"):
        error = await bench.fault(server, "say", what=what)
        assert "address, which is not allowed" in error.message


# Credentials


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETS_KEY", "k-123")
    monkeypatch.setenv("PETS_LOGIN", "ada:pässword".replace("ä", "a"))
    monkeypatch.setenv("PETS_TOKEN", "tok")


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("credentials", "header", "value", "query"),
    [
        ({"key": "env:PETS_KEY"}, "X-Api-Key", "k-123", ""),
        ({"inQuery": "env:PETS_KEY", "jar": "env:PETS_TOKEN"}, "Cookie", "session=tok",
         "api_key=k-123"),
        ({"basic": "env:PETS_LOGIN"}, "Authorization", "Basic YWRhOnBhc3N3b3Jk", ""),
    ],
)  # fmt: skip
async def test_credential_goes_where_its_scheme_says_and_no_caller_can_set_it(
    bench: Bench, credentials: dict[str, str], header: str, value: str, query: str
) -> None:
    server = await bench.started(credentials=credentials)
    said = (await bench.call(server, "look"))["structuredContent"]
    assert said["headers"][header] == value
    assert said["query"] == query
    (look,) = [tool for tool in bench.offer.tools if tool.name == "look"]
    properties = json.loads(bytes(look.definition))["inputSchema"]["properties"]
    assert ("X-Api-Key" in properties) is ("key" not in credentials)
    assert ("api_key" in properties) is ("inQuery" not in credentials)
    assert "k-123" not in bytes(look.definition).decode()
    other = await bench.call(server, "form", body={})
    assert header not in other["structuredContent"]["headers"]


@pytest.mark.usefixtures("secrets")
async def test_bearer_and_headers_of_the_definition_go_with_every_call_and_the_document(
    bench: Bench,
) -> None:
    fields = {"bearer": "env:PETS_TOKEN", "headers": {"X-Team": "blue"}}
    server = bench.make(fields=fields)
    await server.start()
    assert bench.api.seen[0].headers["Authorization"] == "Bearer tok"
    said = (await bench.call(server, "look"))["structuredContent"]
    assert said["headers"]["Authorization"] == "Bearer tok"
    assert said["headers"]["X-Team"] == "blue"


@pytest.mark.usefixtures("secrets")
async def test_redirect_to_another_origin_does_not_get_the_credential(bench: Bench) -> None:
    server = await bench.started(credentials={"key": "env:PETS_KEY"})
    error = await bench.fault(server, "say", what="far")
    assert "another origin" in error.message


@pytest.mark.usefixtures("secrets")
async def test_caller_cannot_add_a_second_credential(bench: Bench) -> None:
    server = await bench.started(credentials={"inQuery": "env:PETS_KEY", "jar": "env:PETS_TOKEN"})
    refused = await bench.error(server, "look", free={"API_Key": "mine"})
    assert "api_key: this part of the query is not the caller's to set" in refused
    assert "session" in await bench.error(server, "look", session="mine")
    assert bench.api.seen == []
    said = (await bench.call(server, "look", free={"other": "x"}))["structuredContent"]
    assert said["query"] == "other=x&api_key=k-123"


async def test_credential_that_cannot_serve_is_named(bench: Bench) -> None:
    said = await bench.refused(credentials={"nokey": "env:PETS_KEY"})
    assert (
        "credentials.nokey: the document has no such security scheme; it has key, inQuery" in said
    )
    assert "credentials.oauth: the scheme is of type oauth2" in await bench.refused(
        credentials={"oauth": "env:PETS_KEY"}
    )


async def test_missing_secret_is_an_error_of_the_call_that_needs_it(bench: Bench) -> None:
    server = await bench.started(credentials={"key": "env:PETS_NO_SUCH_KEY"})
    error = await bench.fault(server, "look")
    assert "PETS_NO_SUCH_KEY of the runner is not set" in error.message
    assert error.outcome is Outcome.NOT_EXECUTED


# Where the document and the API are


async def test_document_may_be_a_file_yaml_text_or_an_object(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    path.write_text(json.dumps(DOCUMENT))
    text = "openapi: 3.1.0\ninfo: {title: t, version: '1'}\npaths:\n  /pets:\n    get: {}\n"
    for document, tools in ((str(path), 13), (text, 1), (DOCUMENT, 13), (json.dumps(DOCUMENT), 13)):
        server = await bench.started(document=document)
        assert len(bench.offer.tools) == tools
        await bench.call(server, bench.offer.tools[0].name)


async def test_without_a_url_the_api_is_where_the_document_says(bench: Bench) -> None:
    server = await bench.started(url="")
    await bench.call(server, "listPets")
    assert bench.api.seen[-1].raw_path == "/api/pets"


async def test_document_does_not_lead_into_the_runners_own_net(bench: Bench) -> None:
    for place in (f"http://localhost:{bench.api.port}/api", "http://169.254.169.254/"):
        bench.api.document = {**DOCUMENT, "servers": [{"url": place}]}
        server = await bench.started(url="")
        error = await bench.fault(server, "listPets")
        assert "address, which is not allowed" in error.message
        assert bench.api.seen == []


async def test_query_of_the_url_is_kept(bench: Bench) -> None:
    server = await bench.started(url=f"{bench.api.url}/api/?version=2")
    await bench.call(server, "listPets", limit=1)
    assert bench.api.seen[-1].raw_path == "/api/pets?limit=1&version=2"


async def test_tenants_definition_reads_no_file_and_reaches_no_loopback(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "api.json"
    path.write_text(json.dumps(DOCUMENT))
    assert "may not read a document from a file" in await bench.refused(
        trusted=False, document=str(path)
    )
    assert "loopback address, which is not allowed" in await bench.refused(trusted=False)
    server = await bench.started(trusted=False, document=DOCUMENT)
    assert "loopback" in (await bench.fault(server, "listPets")).message


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"no: [", "neither JSON nor YAML"),
        ({"swagger": "2.0"}, "Swagger 2.0"),
        ({**DOCUMENT, "paths": {"/x": {"get": {"responses": 1}}}}, "paths//x/get/responses"),
        ({**DOCUMENT, "paths": {}}, "no operation is chosen"),
        (b"{" + b" " * (17 * 1024 * 1024), "more than 16777216 bytes"),
    ],
)
async def test_document_that_cannot_be_used_is_one_clear_error(
    bench: Bench, document: Any, said: str
) -> None:
    bench.api.document = document
    assert said in await bench.refused()


async def test_document_that_is_not_there_is_named_without_its_query(
    bench: Bench, tmp_path: Path
) -> None:
    missing = await bench.refused(document=f"{bench.api.url}/none.json?token=hidden")
    assert "/none.json answered HTTP 404" in missing
    assert "hidden" not in missing
    gone = tmp_path / "none.yaml"
    assert f"settings.document: {gone}: No such file" in await bench.refused(document=str(gone))


async def test_operation_whose_schema_is_none_is_left_out_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    parameter = {"name": "q", "in": "query", "schema": {"type": "strng"}}
    fine = {"200": {"description": "fine"}}
    wrong = {"get": {"operationId": "wrong", "responses": fine, "parameters": [parameter]}}
    paths = {**DOCUMENT["paths"], "/wrong": wrong}
    bench.api.document = {**DOCUMENT, "openapi": "3.1.0", "paths": paths}
    await bench.started()
    assert "wrong" not in [tool.name for tool in bench.offer.tools]
    assert "operation left out: GET /wrong" in caplog.text
