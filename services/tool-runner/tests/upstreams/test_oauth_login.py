"""A person's part of a server's OAuth: consent that only a browser can give."""

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.responses import Response

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mcp_proto.contracts.tool_runner import LoginAnswer
from mcp_proto.errors import MeshError
from mesh_chassis.testing.conditions import eventually
from tool_runner.supervisor.hosted import HostedServer, ServerState
from tool_runner.supervisor.logins import login
from tool_runner.supervisor.settings import HostSettings
from tool_runner.upstreams.factory import make_link
from tool_runner.upstreams.oauth.access import LOGIN_S, Access

BACK = "http://127.0.0.1:33418/callback"


def consent(scene: Any) -> None:
    """The authorization server shows programs a page; people get on."""
    usual = scene.authority.authorize

    async def page(request: Any) -> Any:
        if "mcp-mesh" in request.headers["user-agent"]:
            return Response("<form>May this client?</form>", media_type="text/html")
        return usual(request)

    scene.authority.instead["/authorize"] = page


async def browse(url: str) -> str:
    """Where a person ends up."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        return (await browser.get(url)).headers["location"]


def definition(scene: Any, **fields: Any) -> ServerDefinition:
    oauth = OAuthClient(**{"grant": "authorization_code", **fields})
    return ServerDefinition(
        name="far", transport="http", url=scene.url, allow_private=("127.0.0.1",), oauth=oauth
    )


@pytest.fixture
async def access(scene):
    """The runner's client, its server asked by nobody yet."""
    consent(scene)
    one = definition(scene)
    link = make_link(one, scene.net.settings, trusted=True)
    link.open()
    yield Access(one.oauth, "far", link)
    await link.close()


async def test_consent_of_a_person_gives_a_token(scene, access) -> None:
    url = await access.begin_login()
    asked = parse_qs(urlsplit(url).query)
    assert asked["redirect_uri"] == [BACK]
    assert "code_verifier" not in asked
    await access.finish_login(await browse(url))
    assert (await access(None)).removeprefix("Bearer ") in scene.authority.tokens


async def test_answer_counts_once(scene, access) -> None:
    location = await browse(await access.begin_login())
    await access.finish_login(location)
    with pytest.raises(MeshError, match="no login under way"):
        await access.finish_login(location)
    assert len(scene.authority.forms) == 1


async def test_answer_to_an_earlier_login_is_refused(scene, access) -> None:
    location = await browse(await access.begin_login())
    await access.begin_login()
    with pytest.raises(MeshError, match="another state"):
        await access.finish_login(location)
    assert scene.authority.forms == []


async def test_answer_that_comes_too_late_is_refused(scene, access) -> None:
    location = await browse(await access.begin_login())
    later = time.monotonic() + LOGIN_S + 1
    access._clock = lambda: later
    with pytest.raises(MeshError, match="took too long"):
        await access.finish_login(location)
    assert scene.authority.forms == []


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://evil.example.com/callback?code=c", "did not answer to"),
        (f"{BACK}?code=c&state=guessed", "another state"),
        ("x", "did not answer to"),
    ],
)
async def test_answer_of_somebody_else_is_refused(scene, access, location: str, said: str) -> None:
    await access.begin_login()
    with pytest.raises(MeshError, match=said):
        await access.finish_login(location)
    assert scene.authority.forms == []


async def test_login_does_not_begin_when_the_server_cannot_be_trusted(scene, access) -> None:
    scene.authority.about = {"issuer": "https://evil.example.com"}
    with pytest.raises(MeshError, match="of the issuer"):
        await access.begin_login()


@pytest.fixture
async def hosted(scene):
    """The server as the runner hosts it."""
    consent(scene)
    settings = HostSettings(network=scene.net.settings)

    async def tell(*_: Any) -> None:
        return None

    one = HostedServer(
        definition(scene), scene.net.children, settings, lambda _: None, lambda _: None, tell
    )
    one.start()
    assert not await one.settled(5)
    yield one, settings
    await one.close()


async def test_server_that_wants_consent_says_so_and_runs_once_it_is_given(scene, hosted) -> None:
    server, settings = hosted
    assert "mesh server login far" in server.reason
    begun = await login(server, settings, "")
    assert (begun.held, begun.redirect_url, begun.problem) == (True, BACK, "")
    ended = await login(server, settings, await browse(begun.url))
    assert ended == LoginAnswer(held=True)
    await eventually(lambda: server.state is ServerState.RUNNING)
    assert len(scene.authority.forms) == 1


async def test_failed_login_says_why_and_changes_nothing(scene, hosted) -> None:
    server, settings = hosted
    await login(server, settings, "")
    ended = await login(server, settings, f"{BACK}?error=access_denied&state=x")
    assert "another state" in ended.problem
    assert server.state is not ServerState.RUNNING


async def test_token_is_not_kept_when_the_definition_changes(scene, hosted) -> None:
    server, settings = hosted
    begun = await login(server, settings, "")
    await login(server, settings, await browse(begun.url))
    await eventually(lambda: server.state is ServerState.RUNNING)
    server.restart(server.definition)
    assert server.kept.token is None


async def test_server_without_the_code_grant_has_no_login(scene, hosted) -> None:
    server, settings = hosted
    server.restart(ServerDefinition(name="far", transport="http", url=scene.url))
    answer = await login(server, settings, "")
    assert "no MCP server with OAuth by authorization_code" in answer.problem
