"""Tests of mesh_cli.remote_server: what ``mesh server add`` makes of its options."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mesh_cli.failure import Failure
from mesh_cli.remote_server import defined, remote_options


def add(*words: str) -> ServerDefinition:
    made: list[ServerDefinition] = []

    @click.command()
    @click.argument("words", nargs=-1)
    @remote_options
    def command(words: tuple[str, ...], **given: Any) -> None:
        made.append(defined(ServerDefinition(name="far"), words, given))

    result = CliRunner().invoke(command, words)
    if isinstance(result.exception, Failure):
        raise result.exception
    assert result.exception is None
    return made[0]


@pytest.mark.parametrize(
    ("url", "transport"),
    [("https://a.test/mcp", "http"), ("http://a.test/", "http"), ("tcp://a.test:9500", "tcp")],
)
def test_url_says_the_transport(url: str, transport: str) -> None:
    assert add(url) == ServerDefinition(name="far", transport=transport, url=url)


def test_era_can_be_fixed_for_any_server() -> None:
    assert add("a-program", "--era", "legacy").era == "legacy"


def test_sse_is_asked_for() -> None:
    assert add("http://a.test/sse", "--transport", "sse").transport == "sse"


def test_command_stays_a_command_when_an_argument_is_a_url() -> None:
    made = add("--", "npx", "http://a.test/mcp")
    assert (made.transport, made.command, made.args) == ("stdio", "npx", ("http://a.test/mcp",))


def test_all_options_reach_the_definition() -> None:
    made = add(
        "https://a.test/mcp", "--header", "X-Team: mesh", "--allow-private", "10.0.0.0/8",
        "--oauth-token-url", "https://auth.test/t", "--oauth-client-id", "me",
        "--oauth-secret", "env:S", "--oauth-scope", "a", "--oauth-scope", "b",
    )  # fmt: skip
    assert made.headers == {"X-Team": "mesh"}
    assert made.allow_private == ("10.0.0.0/8",)
    assert made.oauth == OAuthClient(
        token_url="https://auth.test/t", client_id="me", client_secret="env:S", scopes=("a", "b")
    )


def test_oauth_alone_leaves_everything_to_the_server() -> None:
    made = add("https://a.test/mcp", "--oauth", "authorization_code")
    assert made.oauth == OAuthClient(grant="authorization_code")


def test_every_oauth_option_reaches_the_definition() -> None:
    made = add(
        "https://a.test/mcp", "--oauth", "authorization_code", "--oauth-issuer", "https://i.test",
        "--oauth-client-metadata", "https://m.test/c", "--oauth-redirect", "https://m.test/back",
        "--oauth-resource", "https://a.test/",
    )  # fmt: skip
    assert made.oauth == OAuthClient(
        grant="authorization_code",
        issuer="https://i.test",
        client_metadata_url="https://m.test/c",
        redirect_url="https://m.test/back",
        resource="https://a.test/",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("https://a.test/mcp", "--bearer", "s3cret"), "name a secret as env:NAME"),
        (("https://a.test/mcp", "--oauth-client-id", "me"), "oauth.client_secret is missing"),
        (("https://a.test/mcp", "--header", "no colon"), "Name: value"),
        (("ftp://a.test/mcp", "--transport", "http"), "http:// or https://"),
        (("a-program", "--bearer", "env:T"), "bearer is for servers with a url"),
    ],
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Failure) as caught:
        add(*words)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
