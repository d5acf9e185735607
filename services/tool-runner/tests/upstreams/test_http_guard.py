"""Where HTTP upstreams may connect to, what they carry there, and what they believe."""

import asyncio
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_proto.contracts.registry import OAuthClient
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.versions import Revision
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow


async def refused(net: Any, url: str, **fields: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await net.started(url, **fields)
    assert caught.value.kind is ErrorKind.UPSTREAM
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    return caught.value


async def test_tenants_server_is_refused_when_it_is_on_this_machine(net) -> None:
    server, url = await net.new()
    error = await refused(net, url, trusted=False, tenant="acme")
    assert "loopback address" in error.message
    assert server.seen == []


async def test_tenants_own_word_does_not_open_private_addresses(net) -> None:
    server, url = await net.new()
    await refused(net, url, trusted=False, tenant="acme", allow_private=("127.0.0.0/8",))
    assert server.seen == []


async def test_tenants_server_is_reached_when_the_runner_allows_its_network(net) -> None:
    from msgspec.structs import replace

    _, url = await net.new()
    net.settings = replace(net.settings, allow_networks=("127.0.0.1",))
    upstream = await net.started(url, trusted=False, tenant="acme")
    assert await net.call(upstream, "echo") == "{}"


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("169.254.169.254", "metadata"),
        ("[::ffff:169.254.169.254]", "metadata"),
        ("10.1.2.3.", "private"),
        ("0.0.0.0", "reserved"),
        ("[fe80::1]", "link-local"),
    ],
)
async def test_redirect_to_a_forbidden_address_is_refused(net, host: str, kind: str) -> None:
    _server, url = await net.new(moved=f"http://{host}:8/mcp")
    error = await refused(net, url)
    assert f"{kind} address" in error.message, error.message


async def test_redirect_to_another_port_of_this_machine_is_refused(net) -> None:
    other, elsewhere = await net.new()
    _, url = await net.new(moved=elsewhere)
    assert "loopback address" in (await refused(net, url)).message
    assert other.seen == []


async def test_redirect_within_the_origin_is_followed_at_most_three_times(net) -> None:
    hops = {"/mcp": "/a", "/a": "/b", "/b": "/c", "/c": "/d", "/d": "/e"}
    server, _url = await net.new()
    ends = "/c"

    async def post(request: Request) -> Any:
        from starlette.responses import RedirectResponse

        if request.url.path != ends:
            return RedirectResponse(hops[request.url.path], status_code=307)
        return await server.serve(request)

    app = Starlette(routes=[Route("/{rest}", post, methods=["GET", "POST", "DELETE"])])
    served = await net.serve(app)
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp")
    assert await net.call(upstream, "echo") == "{}"
    ends = "/e"
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo")
    assert "redirects more than 3 times" in caught.value.message


async def test_credential_does_not_follow_a_redirect_to_another_origin(net, monkeypatch) -> None:
    monkeypatch.setenv("FAR_TOKEN", "t0ken")
    other, elsewhere = await net.new()
    _, url = await net.new(moved=elsewhere.replace("127.0.0.1", "localhost"))
    error = await refused(net, url, bearer="env:FAR_TOKEN", allow_private=("localhost",))
    assert "another origin" in error.message
    assert other.heads == []


async def test_name_that_changes_its_address_gains_nothing(net, monkeypatch) -> None:
    """The address that was judged is the one connected to: a second look-up never happens."""
    _, url = await net.new()
    port = int(url.split(":")[2].split("/")[0])
    answers = ["127.0.0.1", "10.0.0.1"]
    asked: list[str] = []

    async def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (answers[min(len(asked) - 1, 1)], port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    upstream = await net.started(f"http://rebind.test:{port}/mcp")
    assert await net.call(upstream, "echo") == "{}"
    assert asked == ["rebind.test"]


async def test_proxy_of_the_environment_is_not_used(net, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    _, url = await net.new()
    assert await net.call(await net.started(url), "echo") == "{}"


async def test_start_fails_clearly_when_nobody_listens(net) -> None:
    error = await refused(net, "http://127.0.0.1:9/mcp")
    assert "cannot be reached" in error.message


async def test_name_that_nobody_knows_is_no_evidence_of_an_era(net, monkeypatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise OSError("Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    error = await refused(net, "http://nowhere.test/mcp")
    assert "cannot be reached" in error.message


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_status_of_a_proxy_on_the_way_is_no_evidence_of_an_era(net, status: int) -> None:
    server, url = await net.new(status=status)
    error = await refused(net, url)
    assert str(status) in error.message
    server.status = 0
    upstream = await net.started(url)
    assert upstream.handshake.revision is Revision.R2026_07_28


async def test_bearer_is_sent_and_read_again_when_it_is_refused(net, tmp_path) -> None:
    place = tmp_path / "token"
    place.write_text("first\n")
    server, url = await net.new(token="first")
    upstream = await net.started(url, bearer=f"file:{place}")
    assert server.heads[-1]["authorization"] == "Bearer first"
    server.token = "second"
    place.write_text("second\n")
    assert await net.call(upstream, "echo") == "{}"
    server.token = "third"
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo")
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert "refuses the credential" in caught.value.message
    assert "second" not in caught.value.message


async def test_missing_secret_fails_the_start_without_a_request(net, monkeypatch) -> None:
    monkeypatch.delenv("FAR_TOKEN", raising=False)
    server, url = await net.new()
    assert "FAR_TOKEN" in (await refused(net, url, bearer="env:FAR_TOKEN")).message
    assert server.seen == []


async def test_headers_of_the_definition_are_sent_with_their_secrets(net, monkeypatch) -> None:
    monkeypatch.setenv("FAR_KEY", "k3y")
    server, url = await net.new()
    await net.started(url, headers={"X-Api-Key": "env:FAR_KEY", "X-Team": "mesh"})
    assert server.heads[0]["x-api-key"] == "k3y"
    assert server.heads[0]["x-team"] == "mesh"


class TokenServer:
    """An authorization server that counts."""

    def __init__(self, lives_s: float = 3600) -> None:
        self.forms: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.lives_s = lives_s
        self.error: dict[str, Any] | None = None

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/token", self.token, methods=["POST"])])

    async def token(self, request: Request) -> JSONResponse:
        from urllib.parse import parse_qs

        self.forms.append(parse_qs((await request.body()).decode()))
        self.heads.append(dict(request.headers))
        if self.error is not None:
            return JSONResponse(self.error, status_code=400)
        token = f"token-{len(self.forms)}"
        body = {"access_token": token, "token_type": "Bearer", "expires_in": self.lives_s,
                "scope": "other"}  # fmt: skip
        return JSONResponse(body)


async def tokens(net: Any, monkeypatch: Any, **fields: Any) -> tuple[TokenServer, OAuthClient]:
    monkeypatch.setenv("FAR_SECRET", "s:cret/")
    server = TokenServer(**fields)
    url = (await net.scripted(server)).replace("/mcp", "/token")
    return server, OAuthClient(
        token_url=url, client_id="me", client_secret="env:FAR_SECRET", scopes=("a", "b")
    )


async def test_token_is_fetched_once_for_all_calls(net, monkeypatch) -> None:
    authority, client = await tokens(net, monkeypatch)
    _server, url = await net.new(token="token-1")
    upstream = await net.started(url, oauth=client)
    await asyncio.gather(*(net.call(upstream, "echo") for _ in range(5)))
    assert len(authority.forms) == 1
    form = authority.forms[0]
    assert form["grant_type"] == ["client_credentials"]
    assert form["scope"] == ["a b"]
    assert form["resource"] == [url]
    assert authority.heads[0]["authorization"] == "Basic bWU6cyUzQWNyZXQlMkY="


async def test_token_is_renewed_when_it_expires(net, monkeypatch) -> None:
    authority, client = await tokens(net, monkeypatch, lives_s=100)
    server, url = await net.new(token="token-1")
    upstream = await net.started(url, oauth=client)
    later = time.monotonic() + 81
    upstream._link.credential._clock = lambda: later
    server.token = "token-2"
    assert await net.call(upstream, "echo") == "{}"
    assert len(authority.forms) == 2


async def test_token_is_renewed_once_when_the_server_refuses_it(net, monkeypatch) -> None:
    authority, client = await tokens(net, monkeypatch)
    server, url = await net.new(token="token-1")
    upstream = await net.started(url, oauth=client)
    server.token = "token-2"
    answers = await asyncio.gather(*(net.call(upstream, "echo") for _ in range(4)))
    assert answers == ["{}"] * 4
    assert len(authority.forms) == 2


async def test_refusal_of_the_authorization_server_is_told_without_the_secret(
    net, monkeypatch
) -> None:
    authority, client = await tokens(net, monkeypatch)
    authority.error = {"error": "invalid_client", "error_description": "s:cret/"}
    server, url = await net.new()
    error = await refused(net, url, oauth=client)
    assert "invalid_client" in error.message
    assert "s:cret" not in error.message
    assert server.seen == []


async def test_wrong_legacy_verdict_is_corrected_at_the_start(net) -> None:
    _, url = await net.new()
    upstream = await net.started(url, legacy=True)
    assert upstream.handshake.revision is Revision.R2026_07_28


async def test_calls_go_on_when_a_legacy_server_has_become_modern(net) -> None:
    from msgspec.structs import replace

    net.settings = replace(net.settings, http=replace(net.settings.http, era_s=0.1, check_s=0.1))
    old, url = await net.old()
    upstream = await net.started(url)
    new = type(await _any_new(net))()
    old.post = new.post
    async with asyncio.timeout(5):
        await net.listener.changed.wait()
    assert upstream.handshake.revision is Revision.R2026_07_28
    assert await net.call(upstream, "echo") == "{}"
    assert "tools/call" in [head.get("mcp-method") for head in old.heads]
    await eventually(lambda: {"method": "DELETE", "session": "s1"} in old.seen)


async def _any_new(net: Any) -> Any:
    server, _ = await net.new()
    return server


async def test_life_ends_when_a_modern_server_has_become_legacy(net) -> None:
    new, url = await net.new()
    upstream = await net.started(url)
    old, _ = await net.old()
    new.post = old.post
    with pytest.raises(MeshError):
        await net.call(upstream, "echo")
    async with asyncio.timeout(5):
        assert await upstream.wait_ended() == "no longer speaks MCP 2026-07-28"


async def test_life_ends_when_an_idle_server_is_gone(net) -> None:
    _, url = await net.new()
    upstream = await net.started(url)
    await net.here.stop()
    async with asyncio.timeout(5):
        assert "cannot be reached" in await upstream.wait_ended()
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo")
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_modern_server_that_serves_legacy_beside_is_asked_in_legacy(net) -> None:
    server, url = await net.old()
    post = server.post

    async def version(request: Request, message: Any) -> Any:
        if message.get("method") == "server/discover":
            data = {"supported": ["2025-11-25"], "requested": "2026-07-28"}
            error = {"code": -32022, "message": "version", "data": data}
            body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            return JSONResponse(body, status_code=400)
        return await post(request, message)

    server.post = version
    upstream = await net.started(url)
    assert upstream.handshake.revision is Revision.R2025_11_25
