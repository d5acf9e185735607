"""What a definition of an upstream server must hold: one rule for file, registry and runner.

A definition may be shown to operators and lies in a bucket, so it never holds a secret: it names
one (``env:NAME``, ``file:PATH``), and the runner that connects reads it.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition

__all__ = [
    "ERAS",
    "TRANSPORTS",
    "connection_problem",
    "http_problem",
    "is_secret_reference",
    "network_of",
    "prefix_problem",
    "redacted_url",
]

TRANSPORTS = ("stdio", "http", "sse", "tcp")
"""How an upstream server can be reached."""

ERAS = ("auto", "legacy")
"""Which revisions a server is talked to in."""

URL_CHARS_MAX = 2048
HEADERS_MAX = 32
HEADER_CHARS_MAX = 4096
ALLOWED_MAX = 64

_OWN_HEADERS = frozenset(
    (
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that belong to the connection or to MCP; a definition may not set them."""
_SECRET_HEADERS = frozenset(
    ("authorization", "cookie", "proxy-authorization", "x-api-key", "api-key", "x-auth-token")
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}|file:[^\0\r\n]{1,1024}")
_CLIENT_AUTH = ("basic", "post")


def is_secret_reference(text: str) -> bool:
    """Whether ``text`` names a secret: ``env:NAME`` or ``file:PATH``."""
    return _REFERENCE.fullmatch(text) is not None


def prefix_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with the prefix; None when nothing is."""
    if definition.prefix:
        return 'prefix must be "" (names without prefix) or left out (the name of the server)'
    return None


def connection_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with how a server is to be reached, as public text; None when nothing is."""
    if definition.transport not in TRANSPORTS:
        return f"transport must be one of {', '.join(TRANSPORTS)}"
    if definition.era not in ERAS:
        return f"era must be one of {', '.join(ERAS)}"
    if definition.transport == "stdio":
        return _stdio_problem(definition)
    if definition.command or definition.args or definition.env or definition.cwd:
        return f"a server with transport {definition.transport} has a url, no command"
    if definition.transport == "tcp":
        return _tcp_problem(definition) or _allowed_problem(definition.allow_private)
    return http_problem(definition)


def _stdio_problem(definition: ServerDefinition) -> str | None:
    if not definition.command:
        return "a stdio server needs a command"
    given = (
        ("url", definition.url),
        ("headers", definition.headers),
        ("bearer", definition.bearer),
        ("oauth", definition.oauth),
        ("allow_private", definition.allow_private),
        ("tls_ca_file", definition.tls_ca_file),
    )
    for field, value in given:
        if value:
            return f"{field} is for servers with a url; this one has transport stdio"
    return None


def _tcp_problem(definition: ServerDefinition) -> str | None:
    if definition.headers or definition.oauth is not None or definition.tls_ca_file:
        return "headers, oauth and tls_ca_file are for transports http and sse"
    if definition.bearer and not is_secret_reference(definition.bearer):
        return _not_a_reference("bearer")
    parts = _split(definition.url)
    if parts is None or parts.scheme != "tcp" or not parts.hostname or not _port(parts):
        return "url must be tcp://HOST:PORT"
    if parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        return "url must be tcp://HOST:PORT and nothing else"
    return None


def http_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with the address, headers and credential of something behind HTTP."""
    problem = url_problem("url", definition.url) or _headers_problem(definition.headers)
    if problem is not None:
        return problem
    if definition.bearer and not is_secret_reference(definition.bearer):
        return _not_a_reference("bearer")
    authorizes = any(name.lower() == "authorization" for name in definition.headers)
    if bool(definition.bearer) + (definition.oauth is not None) + authorizes > 1:
        return "only one of bearer, oauth and a header Authorization can be given"
    if definition.oauth is not None:
        problem = _oauth_problem(definition.oauth)
    return problem or _allowed_problem(definition.allow_private)


def _oauth_problem(oauth: OAuthClient) -> str | None:
    problem = url_problem("oauth.token_url", oauth.token_url)
    if problem is not None:
        return problem
    parts = urlsplit(oauth.token_url)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        return "oauth.token_url must be https: the client secret travels to it"
    if not oauth.client_id:
        return "oauth.client_id is missing"
    if not is_secret_reference(oauth.client_secret):
        return _not_a_reference("oauth.client_secret")
    if oauth.client_auth not in _CLIENT_AUTH:
        return f"oauth.client_auth must be one of {', '.join(_CLIENT_AUTH)}"
    if any(not scope or " " in scope for scope in oauth.scopes):
        return "oauth.scopes must be a list of single scopes"
    return None


def url_problem(field: str, url: str) -> str | None:
    """What is wrong with an http or https URL."""
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return f"{field} must be an http:// or https:// address"
    if parts.username is not None or parts.password is not None:
        return f"{field} must not hold a user name or password; use bearer or headers"
    if parts.fragment or "#" in url:
        return f"{field} must not have a fragment"
    if not _port(parts) and parts.port is not None:
        return f"{field} has no valid port"
    return None


def _headers_problem(headers: dict[str, str]) -> str | None:
    if len(headers) > HEADERS_MAX:
        return f"at most {HEADERS_MAX} headers"
    for name, value in headers.items():
        low = name.lower()
        if _TOKEN.fullmatch(name) is None:
            return f"{name[:64]!r} cannot be the name of a header"
        if low in _OWN_HEADERS or low.startswith("mcp-"):
            return f"header {name} is set by the runner itself"
        if len(value) > HEADER_CHARS_MAX or not value.isascii() or not value.isprintable():
            return f"header {name}: a value is printable ASCII, at most {HEADER_CHARS_MAX} long"
        if low in _SECRET_HEADERS and not is_secret_reference(value):
            return _not_a_reference(f"header {name}")
    return None


def _allowed_problem(allowed: tuple[str, ...]) -> str | None:
    if len(allowed) > ALLOWED_MAX:
        return f"allow_private has at most {ALLOWED_MAX} entries"
    for entry in allowed:
        if "/" in entry and network_of(entry) is None:
            return f"allow_private: {entry[:64]!r} is no network"
        if not entry or len(entry) > 255 or not entry.isascii() or not entry.isprintable():
            return "allow_private holds names, addresses and networks"
    return None


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network or single address that ``text`` writes; None when it is a name."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def redacted_url(url: str) -> str:
    """A URL as it may stand in logs and errors: without query."""
    return url.partition("?")[0]


def _split(url: str) -> SplitResult | None:
    if not 0 < len(url) <= URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        return None
    if " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or 0


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    network = network_of(host)
    return network is not None and network.is_loopback


def _not_a_reference(field: str) -> str:
    return f"{field} must name a secret as env:NAME or file:PATH, never hold it"
