"""Tests of mcp_proto.server_definitions."""

import pytest

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mcp_proto.server_definitions import connection_problem, is_secret_reference

URL = "https://mcp.example.com/mcp"


def problem(**fields: object) -> str:
    given = {"name": "far", "transport": "http", "url": URL, **fields}
    return connection_problem(ServerDefinition(**given)) or ""


def oauth(**fields: object) -> OAuthClient:
    given = {"token_url": "https://auth.test/t", "client_id": "me", "client_secret": "env:S"}
    return OAuthClient(**{**given, **fields})


def code(**fields: object) -> OAuthClient:
    return OAuthClient(**{"grant": "authorization_code", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"transport": "sse"},
        {"url": "http://127.0.0.1:8000/mcp?team=a"},
        {"transport": "tcp", "url": "tcp://[::1]:9500"},
        {"transport": "tcp", "url": "tcp://host:9500", "bearer": "file:/run/secrets/t"},
        {"bearer": "env:TOKEN"},
        {"headers": {"X-Team": "a b", "Authorization": "env:BASIC"}},
        {"oauth": oauth()},
        {"oauth": oauth(token_url="", issuer="https://auth.test/t1")},
        {"oauth": OAuthClient(grant="authorization_code")},
        {"oauth": OAuthClient(grant="authorization_code", client_id="public")},
        {"oauth": oauth(token_url="", grant="authorization_code", issuer="http://localhost:9")},
        {
            "oauth": code(
                client_metadata_url="https://m.test/c.json", redirect_url="https://m.test/"
            )
        },
        {"oauth": oauth(token_url="http://127.0.0.1:9/token", client_auth="post")},
        {"allow_private": ("10.0.0.0/8", "server.internal", "fd00::1")},
        {"transport": "stdio", "url": "", "command": "mcp-server"},
    ],
)
def test_definition_is_accepted(fields: dict[str, object]) -> None:
    assert not problem(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"transport": "carrier-pigeon"}, "transport must be one of stdio, http, sse, tcp"),
        ({"era": "stone"}, "era must be one of"),
        ({"url": ""}, "http:// or https://"),
        ({"url": "file:///etc/passwd"}, "http:// or https://"),
        ({"url": "javascript:alert(1)"}, "http:// or https://"),
        ({"url": "http://"}, "http:// or https://"),
        ({"url": "http://a b/"}, "http:// or https://"),
        ({"url": "http://host\\@evil/"}, "http:// or https://"),
        ({"url": "http://host:99999/"}, "http:// or https://"),
        ({"url": "https://user:pw@host/"}, "user name or password"),
        ({"url": "https://host/#x"}, "fragment"),
        ({"command": "rm"}, "has a url, no command"),
        ({"bearer": "s3cret"}, "bearer must name a secret"),
        ({"bearer": "env:"}, "bearer must name a secret"),
        ({"bearer": "env:A", "oauth": oauth()}, "only one of"),
        ({"headers": {"Authorization": "Bearer s3cret"}}, "must name a secret"),
        ({"headers": {"Mcp-Session-Id": "1"}}, "set by the runner"),
        ({"headers": {"Host": "internal"}}, "set by the runner"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "printable ASCII"),
        ({"headers": {"X A": "a"}}, "cannot be the name"),
        ({"oauth": oauth(client_secret="s3cret")}, "oauth.client_secret must name a secret"),
        ({"oauth": oauth(token_url="http://auth.test/t")}, "must be https"),
        ({"oauth": oauth(client_auth="jwt")}, "must be basic, post"),
        ({"oauth": oauth(scopes=("a b",))}, "single scopes"),
        ({"oauth": oauth(scopes=('a"',))}, "single scopes"),
        ({"oauth": oauth(grant="password")}, "oauth.grant must be one of"),
        ({"oauth": oauth(token_url="")}, "which authorization server may get client_secret"),
        ({"oauth": oauth(token_url="", issuer="http://auth.test")}, "issuer must be https"),
        ({"oauth": oauth(token_url="", issuer="https://auth.test?x=1")}, "must not have a query"),
        ({"oauth": oauth(issuer="https://auth.test")}, "only one of oauth.token_url"),
        ({"oauth": oauth(client_id="")}, "oauth.client_id is missing"),
        ({"oauth": oauth(client_secret="")}, "oauth.client_secret is missing"),
        ({"oauth": oauth(client_metadata_url="https://m.test/c")}, "for grant authorization_code"),
        ({"oauth": oauth(resource="https://a.test#x")}, "resource must not have a fragment"),
        ({"oauth": code(token_url="https://auth.test/t")}, "for grant client_credentials"),
        ({"oauth": code(client_secret="env:S")}, "oauth.client_id is missing"),
        ({"oauth": code(client_id="me", client_secret="env:S")}, "may get client_secret"),
        ({"oauth": code(client_metadata_url="https://m.test/")}, "https URL with a path"),
        ({"oauth": code(client_metadata_url="http://localhost/c")}, "https URL with a path"),
        ({"oauth": code(redirect_url="http://m.test/back")}, "redirect_url must be https"),
        ({"allow_private": ("10.0.0.0/99",)}, "is no network"),
        ({"transport": "tcp", "url": URL}, "tcp://HOST:PORT"),
        ({"transport": "tcp", "url": "tcp://host"}, "tcp://HOST:PORT"),
        ({"transport": "tcp", "url": "tcp://host:1/x"}, "nothing else"),
        ({"transport": "tcp", "url": "tcp://h:1", "headers": {"A": "b"}}, "http and sse"),
        ({"transport": "stdio", "url": ""}, "needs a command"),
        ({"transport": "stdio", "command": "x"}, "url is for servers with a url"),
    ],
)
def test_definition_is_refused_with_the_reason(fields: dict[str, object], words: str) -> None:
    said = problem(**fields)
    assert words in said
    assert "s3cret" not in said


@pytest.mark.parametrize("text", ["secret", "env:1A", "env:A B", "file:", "ENV:A", "file:a\nb"])
def test_what_names_no_secret_is_no_reference(text: str) -> None:
    assert not is_secret_reference(text)
