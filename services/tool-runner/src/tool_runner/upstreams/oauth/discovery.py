"""Who gives tokens for a server: from its refusal to the metadata of its authorization server."""

import msgspec

from tool_runner.core.authorization import (
    AuthorizationServer,
    FlowError,
    ProtectedResource,
    check_endpoint,
    check_resource,
    check_server,
    chosen_issuer,
    conventional_server,
    origin,
    resource_metadata_urls,
    server_metadata_urls,
)
from tool_runner.upstreams.oauth.web import Fetched, Web

__all__ = ["Discovered", "discover"]


class Discovered(msgspec.Struct, frozen=True, kw_only=True):
    """What discovery found.

    Attributes:
        server: the authorization server.
        resource: what tokens are asked for (RFC 8707), as the metadata writes it.
        metadata: of the server; None when it has none (revision 2025-03-26).
    """

    server: AuthorizationServer
    resource: str
    metadata: ProtectedResource | None = None


async def discover(web: Web, challenged: str, *, issuer: str, code: bool) -> Discovered:
    """Find the authorization server.

    Args:
        web: requests.
        challenged: ``resource_metadata`` of the challenge; "" = none.
        issuer: the only one that is believed; "" = the server decides.
        code: the authorization code grant is meant.

    Raises:
        FlowError: there is none, or it cannot be trusted.
    """
    resource = await _resource(web, challenged)
    if resource is not None:
        check_resource(resource.resource, web.server_url)
        chosen = chosen_issuer(resource.authorization_servers, issuer)
    else:
        chosen = issuer or origin(web.server_url)
    old = resource is None and not issuer
    server = await _server(web, chosen, old=old)
    check_server(server, chosen, code=code)
    return Discovered(
        server=server,
        resource=resource.resource if resource is not None else web.server_url,
        metadata=resource,
    )


async def _resource(web: Web, challenged: str) -> ProtectedResource | None:
    if challenged and origin(challenged) != origin(web.server_url):
        check_endpoint("resource_metadata", challenged)
    for url in resource_metadata_urls(web.server_url, challenged):
        fetched = await web.get(url)
        if not _there(fetched, "the server's metadata"):
            continue
        try:
            return msgspec.json.decode(fetched.body, type=ProtectedResource)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FlowError("is unknown: the server's metadata cannot be read") from None
    return None


async def _server(web: Web, issuer: str, *, old: bool) -> AuthorizationServer:
    """Metadata; ``old``: the server of 2025-03-26, which need not have any."""
    for url in server_metadata_urls(issuer)[: 1 if old else None]:
        fetched = await web.get(url)
        if not _there(fetched, "its metadata"):
            continue
        try:
            return msgspec.json.decode(fetched.body, type=AuthorizationServer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FlowError("has metadata that cannot be read") from None
    if not old:
        raise FlowError(f"publishes no metadata for the issuer {issuer[:200]!r}")
    return conventional_server(issuer)


def _there(fetched: Fetched, what: str) -> bool:
    """A trouble of the moment says nothing about what a server publishes."""
    if fetched.status >= 500 or fetched.status == 429:
        raise FlowError(f"cannot be found: {what} gave HTTP {fetched.status}")
    return fetched.status == 200
