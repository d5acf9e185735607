"""Options of ``mesh server add`` for how a server is reached, and the definition they make."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mcp_proto.server_definitions import ERAS, GRANTS, TRANSPORTS, connection_problem
from mesh_cli.failure import Exit, Failure

__all__ = ["defined", "reached", "remote_options"]

F = TypeVar("F", bound=Callable[..., Any])

_BY_SCHEME = {"http": "http", "https": "http", "tcp": "tcp"}


def remote_options(command: F) -> F:
    """Add the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--transport", type=click.Choice(TRANSPORTS), help="How it is reached; default: by its URL."
    ),
    click.option(
        "--era", type=click.Choice(ERAS), default="auto", help="legacy: its tools ask the old way."
    ),
    click.option("--header", "headers", multiple=True, metavar="'K: V'", help="Sent to its URL."),
    click.option("--bearer", default="", metavar="SECRET", help="Token: env:, file:, aws:NAME."),
    click.option("--oauth", type=click.Choice(GRANTS), help="Get tokens as the server asks for."),
    click.option("--oauth-token-url", default="", metavar="URL", help="Default: it is found."),
    click.option("--oauth-issuer", default="", metavar="URL", help="Who alone gets the secret."),
    click.option("--oauth-client-id", default="", metavar="ID", help="Default: one is registered."),
    click.option("--oauth-secret", default="", metavar="SECRET", help="Secret of that client."),
    click.option(
        "--oauth-client-metadata", default="", metavar="URL", help="Document that is the client id."
    ),
    click.option("--oauth-redirect", default="", metavar="URL", help="As registered there."),
    click.option("--oauth-scope", "oauth_scopes", multiple=True, help="A scope to ask for."),
    click.option("--oauth-resource", default="", metavar="URI", help="Default: the server's URL."),
    click.option(
        "--allow-private", multiple=True, metavar="NET", help="Private name or network it is in."
    ),
    click.option("--tls-ca-file", default="", metavar="FILE", help="Authorities trusted for it."),
)


def defined(
    definition: ServerDefinition, words: Sequence[str], given: Mapping[str, Any]
) -> ServerDefinition:
    """Complete a definition with how the server is reached.

    Args:
        definition: name, tenant, bounds, and what only a command can have.
        words: a URL, or a command and its arguments.
        given: values of ``remote_options``.

    Raises:
        Failure: they do not fit together; says why.
    """
    scheme = urlsplit(words[0]).scheme if len(words) == 1 else ""
    transport = given["transport"] or _BY_SCHEME.get(scheme, "stdio")
    remote = transport != "stdio"
    complete = msgspec.structs.replace(
        reached(definition, given),
        transport=transport,
        command="" if remote else words[0],
        args=tuple(words[1:]),
        url=words[0] if remote else "",
        era=given["era"],
    )
    problem = connection_problem(complete)
    if problem is not None:
        raise Failure(problem, mend="see mesh server add --help", code=Exit.USAGE)
    return complete


def reached(definition: ServerDefinition, given: Mapping[str, Any]) -> ServerDefinition:
    """The definition with credentials and bounds of what is behind its URL, whatever that is."""
    return msgspec.structs.replace(
        definition,
        headers=_headers(given["headers"]),
        bearer=given["bearer"],
        oauth=_oauth(given),
        allow_private=tuple(given["allow_private"]),
        tls_ca_file=given["tls_ca_file"],
    )


def _oauth(given: Mapping[str, Any]) -> OAuthClient | None:
    fields: dict[str, Any] = {
        "grant": given["oauth"],
        "token_url": given["oauth_token_url"],
        "issuer": given["oauth_issuer"],
        "client_id": given["oauth_client_id"],
        "client_secret": given["oauth_secret"],
        "client_metadata_url": given["oauth_client_metadata"],
        "redirect_url": given["oauth_redirect"],
        "scopes": tuple(given["oauth_scopes"]),
        "resource": given["oauth_resource"],
    }
    said = {field: value for field, value in fields.items() if value}
    return OAuthClient(**said) if said else None


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise Failure(f"{line!r} is not 'Name: value'", code=Exit.USAGE)
        headers[name.strip()] = value.strip()
    return headers
