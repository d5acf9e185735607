"""Tests of tool_runner.core.authorization: what an OAuth client of MCP believes and asks for."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tool_runner.core import authorization as rules
from tool_runner.core.authorization import AuthorizationServer, FlowError, ProtectedResource

SERVER = "https://api.test/mcp"
BACK = "http://127.0.0.1:33418/callback"


def server(**fields: Any) -> AuthorizationServer:
    given = {
        "issuer": "https://auth.test",
        "authorization_endpoint": "https://auth.test/authorize",
        "token_endpoint": "https://auth.test/token",
        "code_challenge_methods_supported": ("S256",),
    }
    return AuthorizationServer(**{**given, **fields})


# Where metadata is


def test_resource_metadata_is_looked_for_where_the_challenge_says_then_path_then_root() -> None:
    path = "https://api.test/.well-known/oauth-protected-resource"
    assert rules.resource_metadata_urls(SERVER, "https://x.test/m") == [
        "https://x.test/m", f"{path}/mcp", path,
    ]  # fmt: skip
    assert rules.resource_metadata_urls("https://api.test/", "") == [path]


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        ("https://auth.test",
         ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        ("https://auth.test/t1",
         ["/.well-known/oauth-authorization-server/t1", "/.well-known/openid-configuration/t1",
          "/t1/.well-known/openid-configuration"]),
    ],
)  # fmt: skip
def test_server_metadata_is_looked_for_in_the_order_of_the_specification(
    issuer: str, places: list[str]
) -> None:
    found = rules.server_metadata_urls(issuer)
    assert found == [f"https://auth.test{place}" for place in places]


# What is believed


@pytest.mark.parametrize(
    "resource",
    [SERVER, "https://api.test", "https://api.test/", "https://API.test/mcp", f"{SERVER}/",
     "https://api.test:443/mcp"],
)  # fmt: skip
def test_metadata_of_the_server_or_a_path_above_it_is_taken(resource: str) -> None:
    rules.check_resource(resource, SERVER)


@pytest.mark.parametrize(
    "resource",
    ["https://evil.test/mcp", "https://api.test/mc", "https://api.test/mcp/deeper", "mcp",
     "http://api.test/mcp", "https://api.test:444/mcp", "https://api.test.evil.test/mcp", "",
     "https://api.test/mcp?x=1", "https://api.test/mcp#x", "https://api.test:x/mcp",
     "https://api.test@evil.test/mcp"],
)  # fmt: skip
def test_metadata_of_another_resource_is_refused(resource: str) -> None:
    with pytest.raises(FlowError, match="about the resource"):
        rules.check_resource(resource, SERVER)


def test_configured_issuer_is_the_only_one_that_is_believed() -> None:
    assert rules.chosen_issuer(["https://a.test", "https://b.test"], "https://b.test")
    with pytest.raises(FlowError, match="not the issuer of the definition"):
        rules.chosen_issuer(["https://evil.test"], "https://b.test")
    with pytest.raises(FlowError, match="names none"):
        rules.chosen_issuer([], "")
    with pytest.raises(FlowError, match="not https"):
        rules.chosen_issuer(["http://auth.test"], "")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"issuer": "https://evil.test"}, "of the issuer"),
        ({"issuer": "https://auth.test/"}, "of the issuer"),
        ({"token_endpoint": None}, "no usable token_endpoint"),
        ({"token_endpoint": "http://auth.test/t"}, "not https"),
        ({"token_endpoint": "https://me:pw@auth.test/t"}, "user name"),
        ({"token_endpoint": "https://auth.test:0/t"}, "no usable"),
        ({"token_endpoint": "file:///etc/passwd"}, "no usable"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "no usable"),
        ({"code_challenge_methods_supported": None}, "S256"),
        ({"code_challenge_methods_supported": ("plain",)}, "S256"),
    ],
)
def test_server_that_cannot_be_trusted_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FlowError, match=said):
        rules.check_server(server(**fields), "https://auth.test", code=True)


def test_server_for_client_credentials_needs_no_pkce() -> None:
    plain = server(code_challenge_methods_supported=None, authorization_endpoint=None)
    rules.check_server(plain, "https://auth.test", code=False)


def test_code_is_read_of_our_own_answer() -> None:
    assert rules.code_of(f"{BACK}?code=c&state=s", BACK, "s", server()) == "c"
    right = f"{BACK}?code=c&state=s&iss=https%3A%2F%2Fauth.test"
    assert rules.code_of(right, BACK, "s", server()) == "c"


@pytest.mark.parametrize(
    "location",
    ["https://auth.test/login", "", f"{BACK}/more?code=c&state=s", f"{BACK}x?code=c&state=s",
     "http://127.0.0.1:33418@evil.test/callback?code=c&state=s"],
)  # fmt: skip
def test_redirect_elsewhere_is_no_answer(location: str) -> None:
    assert rules.code_of(location, BACK, "s", server()) is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("code=c", "state"),
        ("code=c&state=x", "state"),
        ("code=c&state=%C3%A9", "state"),
        ("code=c&state=s&code=d", "twice"),
        ("code=c&state=s&iss=https://evil.test", "names the issuer"),
        ("code=c&state=s&iss=https://auth.test/", "names the issuer"),
        ("error=access_denied&state=s&iss=https://evil.test", "names the issuer"),
        ("error=access_denied&state=s", "access_denied"),
        ("error=a%0Ab&state=s", r"\(ab\)"),
        ("code=&state=s", "without a code"),
    ],
)
def test_answer_that_is_not_ours_is_refused(query: str, said: str) -> None:
    with pytest.raises(FlowError, match=said):
        rules.code_of(f"{BACK}?{query}", BACK, "s", server())


def test_promised_issuer_must_be_named() -> None:
    promising = server(authorization_response_iss_parameter_supported=True)
    with pytest.raises(FlowError, match="promises"):
        rules.code_of(f"{BACK}?code=c&state=s", BACK, "s", promising)


# What is asked for


def test_authorization_url_keeps_the_query_of_the_endpoint() -> None:
    made = rules.authorization_url("https://a.test/o?x=1", {"scope": "", "state": "a b&c"})
    assert parse_qs(urlsplit(made).query) == {"x": ["1"], "state": ["a b&c"]}


@pytest.mark.parametrize(
    ("challenged", "published", "known", "wanted"),
    [
        ("a b", ("c",), None, ("a", "b")),
        ("", ("c", "d"), None, ("c", "d")),
        ("", None, ("x",), ()),
        ("", (), ("offline_access",), ()),
        ("a", None, ("a", "offline_access"), ("a", "offline_access")),
        ('a "b" a \n', None, None, ("a",)),
    ],
)
def test_scopes_are_of_the_challenge_else_of_the_metadata_else_left_out(
    challenged: str, published: Any, known: Any, wanted: tuple[str, ...]
) -> None:
    resource = ProtectedResource(resource=SERVER, scopes_supported=published)
    asked = server(scopes_supported=known)
    assert rules.wanted_scopes(challenged, resource, asked, lasting=True) == wanted


def test_offline_access_is_not_asked_for_where_no_refresh_token_is_of_use() -> None:
    asked = server(scopes_supported=("offline_access",))
    assert rules.wanted_scopes("a", None, asked, lasting=False) == ("a",)


def test_scopes_are_bounded() -> None:
    many = " ".join(f"s{number}" for number in range(1000))
    assert len(rules.scopes_of(many)) == rules.SCOPES_MAX
    assert len(rules.union(rules.scopes_of(many), ("x",))) == rules.SCOPES_MAX


@pytest.mark.parametrize(
    ("supported", "secret", "said", "method"),
    [
        (None, True, "", "client_secret_basic"),
        (None, False, "", "none"),
        (("client_secret_post",), True, "", "client_secret_post"),
        (("none", "client_secret_post", "client_secret_basic"), True, "", "client_secret_basic"),
        (("none",), True, "", "none"),
        (("client_secret_basic",), False, "", "none"),
        (("client_secret_basic",), True, "client_secret_post", "client_secret_post"),
    ],
)
def test_client_identifies_itself_as_both_know(
    supported: Any, secret: bool, said: str, method: str
) -> None:
    assert rules.auth_method(supported, secret=secret, said=said) == method


def test_way_of_identification_that_the_mesh_does_not_know_is_refused() -> None:
    with pytest.raises(FlowError, match="no way"):
        rules.auth_method(("private_key_jwt",), secret=True)
    with pytest.raises(FlowError, match="private_key_jwt"):
        rules.auth_method(None, secret=True, said="private_key_jwt")
