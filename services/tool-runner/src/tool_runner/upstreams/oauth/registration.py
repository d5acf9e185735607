"""Who we are to an authorization server: as configured, by our own document, or registered."""

import time
from collections.abc import Callable

import msgspec

from mcp_proto.contracts.registry import OAuthClient
from tool_runner.core.authorization import (
    AuthorizationServer,
    FlowError,
    auth_method,
    check_endpoint,
)
from tool_runner.upstreams.oauth.tokens import Client
from tool_runner.upstreams.oauth.web import Web
from tool_runner.upstreams.secrets import secret

__all__ = ["configured", "register"]

_ID_CHARS_MAX = 2048
_SAID = {"basic": "client_secret_basic", "post": "client_secret_post"}


class _Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the answer (RFC 7591, 3.2.1)."""

    client_id: str
    client_secret: str | None = None
    client_secret_expires_at: float | None = None
    token_endpoint_auth_method: str | None = None


def configured(oauth: OAuthClient, name: str, metadata: AuthorizationServer) -> Client | None:
    """The client that the definition names; None = it must be registered.

    Args:
        oauth: of the definition.
        name: of the server.
        metadata: of the authorization server.

    Raises:
        MeshError: ``upstream``: the secret is missing.
        FlowError: there is no common way to identify it.
    """
    if oauth.client_id:
        key = secret(oauth.client_secret, name) if oauth.client_secret else ""
        supported = metadata.token_endpoint_auth_methods_supported
        said = _SAID.get(oauth.client_auth, "") if key else ""
        method = auth_method(supported, secret=bool(key), said=said)
        return Client(client_id=oauth.client_id, secret=key, method=method)
    if oauth.client_metadata_url and metadata.client_id_metadata_document_supported:
        return Client(client_id=oauth.client_metadata_url)
    return None


async def register(
    web: Web,
    metadata: AuthorizationServer,
    redirect_url: str,
    scopes: tuple[str, ...],
    *,
    clock: Callable[[], float] = time.monotonic,
    now_s: Callable[[], float] = time.time,
) -> Client:
    """Register dynamically (RFC 7591).

    Args:
        web: requests.
        metadata: of the authorization server.
        redirect_url: where its answers go.
        scopes: that will be asked for.
        clock: monotonic seconds.
        now_s: Unix seconds.

    Raises:
        FlowError: the server has no registration, or refuses.
    """
    if not metadata.registration_endpoint:
        raise FlowError(
            "registers no clients: register one there and set client_id (or client_metadata_url)"
        )
    check_endpoint("registration_endpoint", metadata.registration_endpoint)
    supported = metadata.token_endpoint_auth_methods_supported
    wish = auth_method(supported, secret=False, registering=True)
    loopback = redirect_url.startswith("http:")
    asked: dict[str, object] = {
        "client_name": "MCP Mesh",
        "redirect_uris": [redirect_url],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": wish,
        "application_type": "native" if loopback else "web",
    }
    if scopes:
        asked["scope"] = " ".join(scopes)
    body = msgspec.json.encode(asked)
    answered = await web.post(metadata.registration_endpoint, body, "application/json")
    if answered.status not in {200, 201}:
        raise FlowError(f"registers no client for us (HTTP {answered.status})")
    said = _read(answered.body)
    key = said.client_secret or ""
    ends = said.client_secret_expires_at or 0.0
    method = auth_method(supported, secret=bool(key), said=said.token_endpoint_auth_method or "")
    if method != "none" and not key:
        raise FlowError("registered a client without the secret that it must use")
    return Client(
        client_id=said.client_id,
        secret=key,
        method=method,
        until=clock() + ends - now_s() if ends else 0.0,
    )


def _read(body: bytes) -> _Registration:
    try:
        said = msgspec.json.decode(body, type=_Registration)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FlowError("answered a registration with something else") from None
    for one in (said.client_id, said.client_secret or ""):
        if not one.isascii() or not one.isprintable() or len(one) > _ID_CHARS_MAX:
            raise FlowError("registered a client that cannot be used")
    if not said.client_id:
        raise FlowError("registered a client without client_id")
    return said
