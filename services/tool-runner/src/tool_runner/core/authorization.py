"""OAuth 2.1 as MCP asks for it of a client: what is believed, what is asked for, what is refused.

Everything here comes from somebody else's document, so nothing is taken at its word: a resource
must be the server that was called, an issuer the one that was asked for, an endpoint https. The
rules are those of the MCP authorization chapter (2026-07-28) on RFC 8414, 8707, 9207 and 9728.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from hmac import compare_digest
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

__all__ = [
    "AuthorizationServer",
    "FlowError",
    "ProtectedResource",
    "auth_method",
    "authorization_url",
    "check_endpoint",
    "check_resource",
    "check_server",
    "chosen_issuer",
    "code_of",
    "conventional_server",
    "origin",
    "resource_metadata_urls",
    "scopes_of",
    "server_metadata_urls",
    "union",
    "wanted_scopes",
]

SERVERS_MAX = 16
SCOPES_MAX = 64
SCOPE_CHARS_MAX = 256
CODE_CHARS_MAX = 4096
URL_CHARS_MAX = 2048
_PROTECTED = "/.well-known/oauth-protected-resource"
_OAUTH = "/.well-known/oauth-authorization-server"
_OPENID = "/.well-known/openid-configuration"
_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")
"""In the order of preference."""


class FlowError(Exception):
    """No token can be had; the text is public and completes "its authorization server …"."""


class ProtectedResource(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of protected resource metadata (RFC 9728)."""

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] | None = None


class AuthorizationServer(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of authorization server metadata (RFC 8414, OpenID Connect Discovery)."""

    issuer: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    registration_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool | None = None
    client_id_metadata_document_supported: bool | None = None


# Where metadata is ------------------------------------------------------------------------------


def resource_metadata_urls(server_url: str, challenged: str) -> list[str]:
    """Where a server's protected resource metadata may be, in order.

    Args:
        server_url: of the MCP endpoint.
        challenged: ``resource_metadata`` of its challenge; "" = it gave none.
    """
    path = urlsplit(server_url).path.rstrip("/")
    known = [origin(server_url) + _PROTECTED + path] if path else []
    known.append(origin(server_url) + _PROTECTED)
    return [challenged, *known] if challenged else known


def server_metadata_urls(issuer: str) -> list[str]:
    """Where an authorization server's metadata may be, in the order of the MCP specification."""
    base, path = origin(issuer), urlsplit(issuer).path.rstrip("/")
    if not path:
        return [base + _OAUTH, base + _OPENID]
    return [base + _OAUTH + path, base + _OPENID + path, base + path + _OPENID]


def conventional_server(issuer: str) -> AuthorizationServer:
    """The server of 2025-03-26 that publishes nothing: its endpoints have fixed names.

    It says nothing about PKCE either; that revision requires S256 of it.
    """
    return AuthorizationServer(
        issuer=issuer,
        authorization_endpoint=f"{issuer}/authorize",
        token_endpoint=f"{issuer}/token",
        registration_endpoint=f"{issuer}/register",
        code_challenge_methods_supported=("S256",),
    )


def origin(url: str) -> str:
    """Scheme, host and port of a URL, as it writes them."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# What is believed -------------------------------------------------------------------------------


def check_resource(resource: str, server_url: str) -> None:
    """Whether metadata is about the server that was called: itself, or a path above it.

    Raises:
        FlowError: it is about another one, whose tokens would be asked for.
    """
    said, asked = urlsplit(resource), urlsplit(server_url)
    above = said.path.rstrip("/")
    within = asked.path == said.path or f"{asked.path.rstrip('/')}/".startswith(f"{above}/")
    if _place(resource) != _place(server_url) or not within or said.query or "#" in resource:
        raise FlowError(
            f"cannot be trusted: the server's metadata is about the resource {resource[:200]!r}"
        )


def chosen_issuer(listed: Sequence[str], configured: str) -> str:
    """Which of the servers that a resource lists is asked.

    Raises:
        FlowError: none, or not the one that the definition names.
    """
    if configured:
        if configured not in listed[:SERVERS_MAX]:
            raise FlowError("is not the issuer of the definition: the server asks for another one")
        return configured
    if not listed:
        raise FlowError("is unknown: the server's metadata names none")
    check_endpoint("issuer", listed[0])
    return listed[0]


def check_server(metadata: AuthorizationServer, issuer: str, *, code: bool) -> None:
    """Whether metadata is of the server that was asked for and can do what is needed.

    Args:
        metadata: as fetched.
        issuer: it must say, letter for letter.
        code: the authorization code grant is meant.

    Raises:
        FlowError: it is somebody else's (mix-up), misses an endpoint, or knows no PKCE with S256.
    """
    if metadata.issuer != issuer:
        raise FlowError(
            f"cannot be trusted: its metadata is of the issuer {metadata.issuer[:200]!r},"
            f" not of {issuer[:200]!r}"
        )
    check_endpoint("token_endpoint", metadata.token_endpoint or "")
    if not code:
        return
    check_endpoint("authorization_endpoint", metadata.authorization_endpoint or "")
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise FlowError("does not say that it knows PKCE with S256, without which no code is safe")


def check_endpoint(name: str, url: str) -> None:
    """Whether a URL may get codes and secrets: https, or http on this machine.

    Raises:
        FlowError: it may not.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    written = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}')
    if not usable or not written or len(url) > URL_CHARS_MAX:
        raise FlowError(f"names no usable {name}")
    if parts.username is not None or "#" in url:
        raise FlowError(f"names a {name} with user name or fragment")
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise FlowError(f"names a {name} that is not https")


def code_of(
    location: str, redirect_url: str, state: str, metadata: AuthorizationServer
) -> str | None:
    """The code in a redirect back to us; None when it leads elsewhere.

    Args:
        location: where the authorization endpoint redirects.
        redirect_url: ours.
        state: sent with the request.
        metadata: of the server the request went to.

    Raises:
        FlowError: the answer is an error, somebody else's, or not to this request.
    """
    bare, _, query = location.partition("?")
    if bare != redirect_url:
        return None
    pairs = parse_qsl(query.partition("#")[0], keep_blank_values=True, max_num_fields=64)
    given = dict(pairs)
    if len(given) != len(pairs):
        raise FlowError("answered with a parameter twice")
    if not compare_digest(given.get("state", "").encode(), state.encode()):
        raise FlowError("answered with another state than it was sent")
    issuer = given.get("iss")
    if issuer is None and metadata.authorization_response_iss_parameter_supported:
        raise FlowError("answered without the issuer that it promises to name (RFC 9207)")
    if issuer is not None and issuer != metadata.issuer:
        raise FlowError(f"is not who answered: the answer names the issuer {issuer[:200]!r}")
    if "error" in given:
        raise FlowError(f"refused ({_plain(given['error'])})")
    code = given.get("code", "")
    if not 0 < len(code) <= CODE_CHARS_MAX:
        raise FlowError("answered without a code")
    return code


# What is asked for ------------------------------------------------------------------------------


def authorization_url(endpoint: str, parameters: dict[str, str]) -> str:
    """An authorization request; parameters that are "" are left out."""
    asked = urlencode({name: value for name, value in parameters.items() if value})
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{asked}"


def scopes_of(text: str) -> tuple[str, ...]:
    """The scopes of a space-separated list, without those that cannot be ones."""
    single = dict.fromkeys(text.split(" "))
    return tuple(one for one in single if _is_scope(one))[:SCOPES_MAX]


def wanted_scopes(
    challenged: str,
    resource: ProtectedResource | None,
    server: AuthorizationServer,
    *,
    lasting: bool,
) -> tuple[str, ...]:
    """Scopes to ask for when the definition names none; () = the parameter is left out.

    Args:
        challenged: ``scope`` of the challenge.
        resource: the server's metadata; its scopes count where the challenge has none.
        server: of the authorization server; ``offline_access`` is added if it knows that.
        lasting: a refresh token is of use.
    """
    scopes = scopes_of(challenged)
    if not scopes and resource is not None:
        scopes = scopes_of(" ".join(resource.scopes_supported or ()))
    if scopes and lasting and "offline_access" in (server.scopes_supported or ()):
        scopes = union(scopes, ("offline_access",))
    return scopes


def union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Scopes of both, in order, at most ``SCOPES_MAX``."""
    return tuple(dict.fromkeys((*first, *second)))[:SCOPES_MAX]


def auth_method(
    supported: Sequence[str] | None, *, secret: bool, said: str = "", registering: bool = False
) -> str:
    """How a client says who it is at the token endpoint.

    Args:
        supported: of the server; None = it does not say, which means ``client_secret_basic``.
        secret: the client has one.
        said: what the definition or the registration says; "" = nothing.
        registering: what to register as; a secret comes with the registration.

    Raises:
        FlowError: there is none that both know.
    """
    if said:
        if said not in _AUTH_METHODS:
            raise FlowError(f"wants clients to use {_plain(said)}, which the mesh does not know")
        return said
    if supported is None:
        return "client_secret_basic" if secret or registering else "none"
    able = [one for one in _AUTH_METHODS if one in supported]
    if not secret and not registering:
        able = ["none"]
    if not able:
        raise FlowError("knows no way for clients to identify themselves that the mesh knows")
    return able[0]


def _is_scope(text: str) -> bool:
    """RFC 6749, 3.3."""
    legal = text.isascii() and text.isprintable() and not set(text) & set(' "\\')
    return legal and 0 < len(text) <= SCOPE_CHARS_MAX


def _plain(text: str) -> str:
    return "".join(letter for letter in text[:100] if letter.isascii() and letter.isprintable())


def _place(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", "", 0
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
