"""The runner as OAuth client of its HTTP servers, against an authorization server that is real."""

import asyncio
import importlib.util
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.registry import OAuthClient
from mcp_proto.errors import MeshError
from tool_runner.upstreams.oauth import access, web
from tool_runner.upstreams.oauth.access import Kept

pytestmark = pytest.mark.slow

CODE = {"grant": "authorization_code"}
HERE = ("127.0.0.1",)


def _load(name: str) -> Any:
    """A module of this folder; test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


authority = _load("authority")


# The way to a token


async def test_server_is_used_by_discovery_registration_and_code_without_any_setting(scene) -> None:
    upstream = await scene.start()
    assert await scene.net.call(upstream, "echo") == "{}"
    asked = scene.authority.requests
    assert [one["resource"] for one in asked] == [scene.url]
    assert "scope" not in asked[0]
    assert scene.authority.forms[0]["resource"] == scene.url
    client = scene.authority.clients["client-1"]
    assert client["application_type"] == "native"
    assert client["grant_types"] == ["authorization_code", "refresh_token"]
    assert scene.guard.refused == [401]


async def test_token_is_had_once_for_calls_that_come_together(scene) -> None:
    upstream = await scene.start()
    scene.guard.revoked.update(scene.authority.tokens)
    answers = await asyncio.gather(*(scene.net.call(upstream, "echo") for _ in range(8)))
    assert answers == ["{}"] * 8
    assert len(scene.authority.forms) == 2


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
async def test_registered_client_identifies_itself_as_the_server_wants(scene, method: str) -> None:
    scene.authority.methods = [method]
    await scene.start()
    client = scene.authority.clients["client-1"]
    assert client["token_endpoint_auth_method"] == method
    assert ("client_secret" in scene.authority.forms[0]) == (method == "client_secret_post")


async def test_registered_client_of_the_operator_comes_before_registration(scene) -> None:
    scene.known()
    await scene.start(client_id="me", client_secret="env:FAR_SECRET", issuer=scene.authority.issuer)
    assert "/register" not in scene.authority.asked


async def test_client_document_comes_before_registration_where_the_server_takes_one(scene) -> None:
    document = "https://mesh.test/client.json"
    scene.authority.about = {"client_id_metadata_document_supported": True}
    scene.known(token_endpoint_auth_method="none")
    client = scene.authority.clients.pop("me")
    scene.authority.clients[document] = {**client, "client_secret": ""}
    await scene.start(client_metadata_url=document)
    assert scene.authority.requests[0]["client_id"] == document
    assert "/register" not in scene.authority.asked


async def test_client_is_registered_where_the_server_takes_no_document(scene) -> None:
    await scene.start(client_metadata_url="https://mesh.test/client.json")
    assert scene.authority.requests[0]["client_id"] == "client-1"


async def test_client_credentials_find_their_server_by_discovery(scene) -> None:
    scene.known()
    scene.guard.challenge = "a b"
    scene.authority.about = {"code_challenge_methods_supported": None}
    await scene.start(
        grant="client_credentials",
        client_id="me",
        client_secret="env:FAR_SECRET",
        issuer=scene.authority.issuer,
    )
    form = scene.authority.forms[0]
    assert (form["grant_type"], form["scope"], form["resource"]) == (
        "client_credentials", "a b", scene.url,
    )  # fmt: skip


async def test_metadata_is_read_where_the_challenge_points(scene) -> None:
    scene.guard.place = "/elsewhere.json"
    scene.guard.pointer = f"{scene.guard.base}/elsewhere.json"
    await scene.start()


async def test_metadata_is_read_at_the_root_when_the_path_has_none(scene) -> None:
    scene.guard.place = "/.well-known/oauth-protected-resource"
    scene.guard.about = {"resource": scene.guard.base}
    await scene.start()
    assert scene.authority.requests[0]["resource"] == scene.guard.base


async def test_server_without_metadata_is_its_own_authorization_server(scene) -> None:
    scene.guard.about = None
    scene.authority.base = scene.guard.base
    await scene.start()
    assert scene.authority.forms


async def test_server_of_2025_03_26_that_publishes_nothing_has_endpoints_of_fixed_names(
    scene,
) -> None:
    scene.guard.about = None
    scene.authority.base = scene.guard.base
    gone = authority.says(404, "")
    scene.authority.instead["/.well-known/oauth-authorization-server"] = gone
    await scene.start()
    assert scene.authority.forms


async def test_issuer_with_a_path_has_its_metadata_under_it(scene) -> None:
    scene.authority.path = "/tenant1"
    await scene.start()
    assert "/.well-known/oauth-authorization-server" not in scene.authority.asked


# Scopes


async def test_scopes_are_those_of_the_challenge(scene) -> None:
    scene.guard.challenge = "mcp:a mcp:b"
    scene.guard.about = {"scopes_supported": ["mcp:c"]}
    await scene.start()
    assert scene.authority.requests[0]["scope"] == "mcp:a mcp:b"


async def test_scopes_are_those_of_the_metadata_when_the_challenge_has_none(scene) -> None:
    scene.guard.about = {"scopes_supported": ["mcp:c", "mcp:d"]}
    scene.authority.about = {"scopes_supported": ["mcp:c", "offline_access"]}
    await scene.start()
    assert scene.authority.requests[0]["scope"] == "mcp:c mcp:d offline_access"


async def test_call_that_needs_more_gets_a_token_for_both(scene) -> None:
    scene.guard.challenge = "read"
    scene.guard.scopes = {"*": "read", "tools/call": "write"}
    upstream = await scene.start()
    assert await scene.net.call(upstream, "echo") == "{}"
    assert [one["scope"] for one in scene.authority.requests] == ["read", "read write"]
    assert await scene.net.call(upstream, "echo") == "{}"
    assert len(scene.authority.requests) == 2


async def test_scope_that_never_suffices_is_asked_for_once(scene) -> None:
    upstream = await scene.start()
    scene.guard.scopes = {"tools/call": "admin"}
    scene.authority.answer = {"iss": scene.authority.issuer}
    narrowed = scene.authority.authorize

    def narrow(request: Any) -> Any:
        answer = narrowed(request)
        for begun in scene.authority.codes.values():
            begun.pop("scope", None)
        return answer

    scene.authority.authorize = narrow
    for _ in range(3):
        with pytest.raises(MeshError, match="forbids the request"):
            await scene.net.call(upstream, "echo")
    assert len(scene.authority.requests) == 2


async def test_server_that_always_wants_another_scope_is_not_followed_for_long(scene) -> None:
    upstream = await scene.start()
    numbers = iter(range(1000))

    class Growing(dict):  # type: ignore[type-arg]
        def get(self, method: str, default: Any = None) -> Any:
            return f"s{next(numbers)}" if method == "tools/call" else default

    scene.guard.scopes = Growing()
    for _ in range(20):
        with pytest.raises(MeshError):
            await scene.net.call(upstream, "echo")
    assert len(scene.authority.requests) <= access.WIDENINGS_MAX


async def test_scope_that_is_not_given_leaves_the_token_that_there_is(scene) -> None:
    upstream = await scene.start()
    scene.guard.scopes = {"tools/call": "admin"}
    scene.authority.answer = {"error": "access_denied"}
    with pytest.raises(MeshError, match="access_denied"):
        await scene.net.call(upstream, "echo")
    for _ in range(5):
        with pytest.raises(MeshError, match="forbids the request"):
            await scene.net.call(upstream, "echo")
    assert len(scene.authority.requests) == 2
    scene.guard.scopes = {}
    assert await scene.net.call(upstream, "echo") == "{}"
    age(scene, 3600)
    assert await scene.net.call(upstream, "echo") == "{}"


async def test_scopes_of_the_definition_are_all_that_is_ever_asked_for(scene) -> None:
    scene.guard.challenge = "read"
    scene.guard.scopes = {"tools/call": "write"}
    upstream = await scene.start(scopes=("mine",))
    with pytest.raises(MeshError, match="forbids the request"):
        await scene.net.call(upstream, "echo")
    assert [one["scope"] for one in scene.authority.requests] == ["mine"]


# Tokens age


def age(scene: Any, seconds: float) -> None:
    later = time.monotonic() + seconds
    scene.credential._clock = lambda: later


async def test_token_is_refreshed_when_it_expires(scene) -> None:
    upstream = await scene.start()
    age(scene, 3600)
    assert await scene.net.call(upstream, "echo") == "{}"
    assert [form["grant_type"] for form in scene.authority.forms] == [
        "authorization_code", "refresh_token",
    ]  # fmt: skip
    assert scene.authority.forms[1]["resource"] == scene.url
    assert len(scene.authority.requests) == 1


async def test_refresh_token_that_is_not_rotated_is_used_again(scene) -> None:
    upstream = await scene.start()
    first = next(iter(scene.authority.refreshable))
    scene.authority.token = {"refresh_token": None}
    age(scene, 3600)
    await scene.net.call(upstream, "echo")
    scene.authority.refreshable[first] = next(iter(scene.authority.tokens.values()))
    age(scene, 2 * 3600)
    await scene.net.call(upstream, "echo")
    assert [form.get("refresh_token") for form in scene.authority.forms] == [None, first, first]


async def test_new_code_is_asked_for_when_the_refresh_token_is_gone(scene) -> None:
    upstream = await scene.start()
    scene.authority.refreshable.clear()
    age(scene, 3600)
    assert await scene.net.call(upstream, "echo") == "{}"
    assert len(scene.authority.requests) == 2


async def test_client_is_registered_again_when_the_server_has_forgotten_it(scene) -> None:
    upstream = await scene.start()
    scene.authority.clients.clear()
    scene.authority.refreshable.clear()
    original = scene.authority.authorize

    def forgetful(request: Any) -> Any:
        # The authorization endpoint still takes the id: only the token endpoint looks it up.
        known = scene.authority.clients
        scene.authority.clients = {request.query_params["client_id"]: {
            "redirect_uris": [request.query_params["redirect_uri"]]}, **known}  # fmt: skip
        try:
            return original(request)
        finally:
            scene.authority.clients = known

    scene.authority.authorize = forgetful
    age(scene, 3600)
    assert await scene.net.call(upstream, "echo") == "{}"
    assert scene.authority.asked.count("/register") == 2


async def test_server_that_refuses_every_token_does_not_make_the_runner_beat_its_authority(
    scene,
) -> None:
    upstream = await scene.start()
    scene.guard.revoked = type("Everything", (), {"__contains__": lambda *_: True})()
    for _ in range(20):
        with pytest.raises(MeshError):
            await scene.net.call(upstream, "echo")
    assert len(scene.authority.forms) <= access.FLOWS_MAX


async def test_tokens_outlive_the_connection_to_the_server(scene) -> None:
    from tool_runner.upstreams.factory import make
    from tool_runner.upstreams.stdio import StdioSettings

    kept = Kept()
    definition = scene.net.make(
        scene.url, oauth=OAuthClient(**CODE), allow_private=HERE
    )._definition
    for _ in range(2):
        upstream = make(
            definition, scene.net.children, scene.net.listener, stdio=StdioSettings(),
            network=scene.net.settings, trusted=True, kept=kept,
        )  # fmt: skip
        await upstream.start()
        await upstream.close()
    assert len(scene.authority.requests) == 1


async def test_new_authorization_server_never_sees_the_old_ones_client_or_tokens(scene) -> None:
    upstream = await scene.start()
    old, new = scene.authority, authority.Authority()
    new.base = authority.base_of(await scene.net.scripted(new))
    new.clients["client-1"] = {"taken": True}
    scene.guard.authority = new
    assert await scene.net.call(upstream, "echo") == "{}"
    assert new.requests[0]["client_id"] == "client-2"
    assert [form["grant_type"] for form in new.forms] == ["authorization_code"]
    assert len(old.forms) == 1


# Attacks and faults


async def test_metadata_of_another_resource_is_refused(scene) -> None:
    scene.guard.about = {"resource": "https://evil.example.com/mcp"}
    await scene.refused("about the resource")
    assert scene.authority.asked == []


async def test_metadata_of_another_issuer_is_refused(scene) -> None:
    scene.authority.about = {"issuer": "https://evil.example.com"}
    await scene.refused("of the issuer")
    assert scene.authority.requests == []


async def test_secret_is_not_shown_to_an_issuer_that_the_definition_does_not_name(scene) -> None:
    scene.known()
    await scene.refused(
        "not the issuer of the definition",
        client_id="me",
        client_secret="env:FAR_SECRET",
        issuer="https://auth.example.com",
    )
    assert scene.authority.asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"iss": "https://evil.example.com"}, "names the issuer"),
        ({"iss": None}, "promises to name"),
        ({"state": "x"}, "another state"),
        ({"state": None}, "another state"),
        ({"error": "access_denied"}, "access_denied"),
    ],
)
async def test_answer_of_somebody_else_gives_no_token(scene, answer: Any, said: str) -> None:
    scene.authority.answer = answer
    await scene.refused(said)
    assert scene.authority.forms == []


@pytest.mark.parametrize("methods", [None, ["plain"]])
async def test_server_without_s256_is_refused(scene, methods: Any) -> None:
    scene.authority.about = {"code_challenge_methods_supported": methods}
    await scene.refused("S256")
    assert "/register" not in scene.authority.asked


@pytest.mark.parametrize(
    "issuer", ["http://169.254.169.254", "http://10.1.2.3", "ftp://a.test", "https://a b", "x"]
)
async def test_issuer_that_is_not_https_is_never_asked(scene, issuer: str) -> None:
    scene.guard.about = {"authorization_servers": [issuer]}
    await scene.refused("issuer")


@pytest.mark.parametrize("pointer", ["http://10.1.2.3/m", "x", "https://a b/", "file:///etc/x"])
async def test_challenge_that_points_nowhere_is_told(scene, pointer: str) -> None:
    scene.guard.pointer = pointer
    await scene.refused("resource_metadata")


async def test_challenge_with_a_space_in_its_pointer_makes_no_request(scene) -> None:
    scene.guard.pointer = f"{scene.guard.base}/a b"
    await scene.refused("malformed address")


@pytest.mark.parametrize(
    ("issuer", "kind"),
    [("https://169.254.169.254", "metadata"), ("https://10.1.2.3", "private"),
     ("https://[::ffff:192.168.1.1]", "private")],
)  # fmt: skip
async def test_issuer_inside_the_operators_network_is_never_asked(
    scene, issuer: str, kind: str
) -> None:
    scene.guard.about = {"authorization_servers": [issuer]}
    await scene.refused(f"{kind} address")


async def test_issuer_on_this_machine_is_not_asked_unless_the_definition_allows_it(scene) -> None:
    await scene.refused("loopback address", definition={"allow_private": ()})
    assert scene.authority.asked == []
    await scene.start(definition={"allow_private": ()}, issuer=scene.authority.issuer)


async def test_tenants_server_cannot_lead_to_this_machine_whatever_it_names(scene) -> None:
    scene.url = scene.url.replace("127.0.0.1", "localhost")
    scene.guard.base = scene.guard.base.replace("127.0.0.1", "localhost")
    scene.net.settings = msgspec.structs.replace(scene.net.settings, allow_networks=("localhost",))
    theirs = {"trusted": False, "tenant": "acme"}
    await scene.refused("loopback address", definition=theirs)
    await scene.refused("loopback address", definition=theirs, issuer=scene.authority.issuer)
    assert scene.authority.asked == []


async def test_endpoint_inside_the_operators_network_is_never_asked(scene) -> None:
    scene.authority.about = {"token_endpoint": "https://10.1.2.3/token"}
    await scene.refused("private address")


async def test_challenge_that_points_into_the_operators_network_is_not_followed(scene) -> None:
    scene.guard.pointer = "https://169.254.169.254/latest/meta-data"
    await scene.refused("metadata address")


@pytest.mark.parametrize("place", ["/.well-known/oauth-authorization-server", "/token"])
async def test_redirect_of_an_authorization_server_is_not_followed(scene, place: str) -> None:
    moved = authority.says(307, "", location="http://169.254.169.254/")
    scene.authority.instead[place] = moved
    await scene.refused("metadata for the issuer" if "well" in place else "HTTP 307")


async def test_login_page_is_told_as_what_it_is(scene) -> None:
    scene.authority.instead["/authorize"] = authority.says(200, "<form>")
    await scene.refused("wants a person to sign in")
    scene.authority.instead["/authorize"] = authority.says(302, "", location="/login")
    await scene.refused("wants a person to sign in")


@pytest.mark.parametrize("place", ["/.well-known/oauth-authorization-server", "/token"])
async def test_endpoint_that_hangs_costs_a_bounded_time(scene, monkeypatch, place: str) -> None:
    monkeypatch.setattr(web, "FETCH_S", 0.2)
    scene.authority.instead[place] = authority.hanging
    await scene.refused("did not answer in time")


@pytest.mark.parametrize(
    "place", ["/.well-known/oauth-authorization-server", "/token", "/register"]
)
async def test_huge_answer_is_not_read(scene, place: str) -> None:
    scene.authority.instead[place] = authority.huge()
    await scene.refused("more than 64 KiB" if place != "/register" else "KiB")


@pytest.mark.parametrize(
    ("place", "answer", "said"),
    [
        ("/.well-known/oauth-authorization-server", [], "cannot be read"),
        ("/.well-known/oauth-authorization-server", {"issuer": 7}, "cannot be read"),
        ("/.well-known/oauth-authorization-server", "\xff{", "cannot be read"),
        ("/register", {}, "something else"),
        ("/register", {"client_id": "a\nb"}, "cannot be used"),
        ("/register", {"client_id": ""}, "without client_id"),
        ("/token", [], "refused"),
        ("/token", "null", "refused"),
        ("/token", {"access_token": "a b"}, "no usable token"),
        ("/token", {"access_token": "a\r\nX: y"}, "no usable token"),
        ("/token", {"access_token": ["a"]}, "no usable token"),
        ("/token", {"access_token": "a" * 20_000}, "no usable token"),
        ("/token", {"access_token": "a", "token_type": "DPoP"}, "only Bearer"),
        ("/token", {"access_token": "a", "expires_in": "never"}, "malformed"),
        ("/token", {"access_token": "a", "expires_in": [1]}, "malformed"),
        ("/token", {"error": "x\ny"}, "refused"),
    ],
)
async def test_lie_of_an_endpoint_is_told_and_not_believed(
    scene, place: str, answer: Any, said: str
) -> None:
    scene.authority.instead[place] = authority.says(200, answer)
    await scene.refused(said)


@pytest.mark.parametrize("expires", [-5, 0, None, 1e308, "60"])
async def test_lifetime_that_makes_no_sense_is_bounded(scene, expires: Any) -> None:
    scene.authority.token = {"expires_in": expires}
    await scene.start()
    token = scene.credential._kept.token
    assert 0 < token.until - time.monotonic() <= 24 * 3600


async def test_trouble_of_the_moment_is_no_evidence_that_there_is_no_metadata(scene) -> None:
    scene.guard.about = None
    scene.guard.authority.instead["/.well-known/oauth-protected-resource/mcp"] = authority.says(
        503, ""
    )
    scene.authority.base = scene.guard.base
    await scene.refused("HTTP 503")
    assert scene.authority.requests == []


async def test_failure_is_answered_from_memory_for_a_while(scene) -> None:
    upstream = await scene.start()
    scene.guard.revoked.update(scene.authority.tokens)
    scene.authority.refreshable.clear()
    scene.authority.instead["/authorize"] = authority.says(200, "<form>")
    before = len(scene.authority.asked)
    for _ in range(10):
        with pytest.raises(MeshError, match="wants a person"):
            await scene.net.call(upstream, "echo")
    assert scene.authority.asked[before:].count("/authorize") <= 2
    del scene.authority.instead["/authorize"]
    age(scene, access.RETRY_MAX_S)
    assert await scene.net.call(upstream, "echo") == "{}"


async def test_secret_and_code_are_in_no_message(scene, caplog) -> None:
    scene.known()
    scene.authority.token = {"error": "invalid_grant", "error_description": "s:cret/"}
    error = await scene.refused(
        "invalid_grant",
        client_id="me",
        client_secret="env:FAR_SECRET",
        issuer=scene.authority.issuer,
    )
    told = error.message + caplog.text
    assert "s:cret" not in told
    assert scene.authority.forms[0]["code"] not in told


async def test_headers_of_the_definition_do_not_reach_the_authorization_server(scene) -> None:
    heads: list[Any] = []
    original = scene.authority.serve

    async def heard(request: Any) -> Any:
        heads.append(dict(request.headers))
        return await original(request)

    scene.authority.serve = heard
    await scene.net.close()
    scene.net.upstreams.clear()
    scene.net._servers.clear()
    await scene.set()
    await scene.start(definition={"headers": {"X-Team": "mesh"}})
    assert heads
    assert not any("x-team" in one for one in heads)
