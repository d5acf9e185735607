"""What a definition of an upstream server must hold: one rule for file, registry and runner.

A definition may be shown to operators and lies in a bucket, so it never holds a secret: it names
one (``env:NAME``, ``file:PATH``, ``aws:NAME``), and the runner that connects reads it.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from mcp_proto.contracts.registry import ContainerOptions, OAuthClient, ServerDefinition
from mcp_proto.sandboxes import ISOLATIONS, sandbox_options_problem

__all__ = [
    "ERAS",
    "GRANTS",
    "TRANSPORTS",
    "connection_problem",
    "container_problem",
    "http_problem",
    "is_image",
    "is_secret_reference",
    "isolation_problem",
    "network_of",
    "prefix_problem",
    "redacted_url",
]

TRANSPORTS = ("stdio", "http", "sse", "tcp")
"""How an upstream server can be reached."""

GRANTS = ("client_credentials", "authorization_code")
"""How a runner may get tokens by OAuth."""

ERAS = ("auto", "legacy")
"""Which revisions a server is talked to in."""

URL_CHARS_MAX = 2048
HEADERS_MAX = 32
HEADER_CHARS_MAX = 4096
ALLOWED_MAX = 64

IMAGE_CHARS_MAX = 512
MEMORY_MB_MIN = 6
"""The least that a Docker engine takes."""
MEMORY_MB_MAX = 1024 * 1024
PIDS_MAX = 100_000
CPUS_MAX = 1024

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
_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")
_REFERENCE = re.compile(
    r"env:[A-Za-z_][A-Za-z0-9_]{0,127}|file:[^\0\r\n]{1,1024}"
    r"|aws:[A-Za-z0-9/_+=.@-]{1,512}(#[A-Za-z0-9_.-]{1,128})?"
)
_CLIENT_AUTH = ("", "basic", "post")
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9_.-]*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_USER = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")


def is_secret_reference(text: str) -> bool:
    """Whether ``text`` names a secret: ``env:NAME``, ``file:PATH`` or ``aws:NAME[#FIELD]``."""
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
    if definition.image or definition.container is not None:
        return f"a server with transport {definition.transport} has a url, no image"
    if definition.isolation or definition.sandbox is not None:
        return "isolation and sandbox are for servers that are processes; this one has a url"
    if definition.transport == "tcp":
        return _tcp_problem(definition) or _allowed_problem(definition.allow_private)
    return http_problem(definition)


def _stdio_problem(definition: ServerDefinition) -> str | None:
    if not definition.command and not definition.image:
        return "a stdio server needs a command or an image"
    problem = container_problem(definition) or isolation_problem(definition)
    if problem is not None:
        return problem
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


def is_image(text: str) -> bool:
    """Whether ``text`` can name an OCI image."""
    return len(text) <= IMAGE_CHARS_MAX and _IMAGE.fullmatch(text) is not None


def container_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with image and container of a server; None when nothing is."""
    options = definition.container
    if not definition.image:
        return "container is for servers with an image" if options is not None else None
    if not is_image(definition.image):
        return f"image: {definition.image[:64]!r} cannot be the name of an image"
    if definition.cwd and not definition.cwd.startswith("/"):
        return "cwd in a container must be an absolute path"
    return None if options is None else _options_problem(options)


def isolation_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with the walls around a server that is a process; None when nothing is."""
    isolation = definition.isolation
    if isolation and isolation not in ISOLATIONS:
        return f"isolation must be one of {', '.join(ISOLATIONS)}"
    if isolation == "vm":
        return "isolation vm is not built yet: choose sandbox, or container with an image"
    if isolation == "container" and not definition.image:
        return "isolation container needs an image that holds the server"
    if isolation in {"none", "sandbox"} and definition.image:
        return f"a server with an image runs in a container; its isolation cannot be {isolation}"
    if definition.sandbox is None:
        return None
    if isolation != "sandbox":
        return 'sandbox says what a server may in its sandbox: isolation must be "sandbox"'
    return sandbox_options_problem(definition.sandbox)


def _options_problem(options: ContainerOptions) -> str | None:
    # "host" and "container:…" would share a network that is not the engine's to give.
    if _NETWORK.fullmatch(options.network) is None or options.network == "host":
        return "container.network must be none, bridge or the name of a network of the engine"
    if not 0 <= options.memory_mb <= MEMORY_MB_MAX or 0 < options.memory_mb < MEMORY_MB_MIN:
        return f"container.memory_mb must be 0 or {MEMORY_MB_MIN} to {MEMORY_MB_MAX}"
    if not 0 <= options.pids <= PIDS_MAX or not 0 <= options.cpus <= CPUS_MAX:
        return f"container.pids and cpus must be 0 to {PIDS_MAX} and 0 to {CPUS_MAX}"
    if _USER.fullmatch(options.user) is None:
        return "container.user must be user or user:group"
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
    if oauth.grant not in GRANTS:
        return f"oauth.grant must be one of {', '.join(GRANTS)}"
    for field, url in (("token_url", oauth.token_url), ("issuer", oauth.issuer)):
        if url and (problem := _safe_url_problem(f"oauth.{field}", url)) is not None:
            return problem
    if oauth.client_secret and not is_secret_reference(oauth.client_secret):
        return _not_a_reference("oauth.client_secret")
    if oauth.client_auth not in _CLIENT_AUTH:
        return "oauth.client_auth must be basic, post or left out"
    if any(_SCOPE.fullmatch(scope) is None for scope in oauth.scopes):
        return "oauth.scopes must be a list of single scopes"
    if "#" in oauth.resource:
        return "oauth.resource must not have a fragment"
    return _grant_problem(oauth) or _whose_secret_problem(oauth)


def _grant_problem(oauth: OAuthClient) -> str | None:
    if oauth.grant == "client_credentials":
        if not oauth.client_id:
            return "oauth.client_id is missing"
        if not oauth.client_secret:
            return "oauth.client_secret is missing: grant client_credentials needs one"
        if oauth.client_metadata_url:
            return "oauth.client_metadata_url is for grant authorization_code"
        return None
    if oauth.token_url:
        return "oauth.token_url is for grant client_credentials; name the oauth.issuer"
    if oauth.client_secret and not oauth.client_id:
        return "oauth.client_id is missing: whose client_secret is it?"
    redirect = _safe_url_problem("oauth.redirect_url", oauth.redirect_url)
    return redirect or _metadata_url_problem(oauth.client_metadata_url)


def _metadata_url_problem(url: str) -> str | None:
    if not url:
        return None
    parts = _split(url)
    if parts is None or parts.scheme != "https" or parts.path in {"", "/"}:
        return "oauth.client_metadata_url must be an https URL with a path"
    return url_problem("oauth.client_metadata_url", url)


def _whose_secret_problem(oauth: OAuthClient) -> str | None:
    """A secret goes to nobody but whom the definition names: the server could name anybody."""
    if oauth.client_secret and not oauth.token_url and not oauth.issuer:
        return "oauth.issuer is missing: it says which authorization server may get client_secret"
    if oauth.token_url and oauth.issuer:
        return "only one of oauth.token_url and oauth.issuer can be given"
    return None


def _safe_url_problem(field: str, url: str) -> str | None:
    problem = url_problem(field, url)
    if problem is not None:
        return problem
    parts = urlsplit(url)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        return f"{field} must be https: secrets travel to it"
    if parts.query and field != "oauth.token_url":
        return f"{field} must not have a query"
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
    return f"{field} must name a secret as env:NAME, file:PATH or aws:NAME, never hold it"
