"""The authorization code grant, whose middle may belong to a person.

What has been consented to already, an authorization server answers with a redirect at once; that
redirect is read, never followed. A page is for a person: ``mesh server login`` takes the URL to
one and brings the answer back, while verifier, state and tokens stay here.
"""

import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from oauthlib.oauth2 import WebApplicationClient

from tool_runner.core.authorization import FlowError, authorization_url, code_of
from tool_runner.upstreams.oauth.discovery import Discovered
from tool_runner.upstreams.oauth.tokens import Client, Token, ask_token
from tool_runner.upstreams.oauth.web import Web

__all__ = ["Begun", "authorize", "begin", "redeem"]

_VERIFIER_CHARS = 64
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An authorization request.

    Attributes:
        url: of the request, for whoever sends it.
        found: the authorization server, checked.
        client: who we are there.
        scopes: asked for; () = none are named.
        resource: what the token is for.
        redirect_url: of ours, registered there.
        state: must come back with the answer.
        verifier: of PKCE; proves that the code was asked for here.
        until: monotonic seconds at which a person's answer comes too late; 0 = nobody is asked.
    """

    url: str
    found: Discovered
    client: Client
    scopes: tuple[str, ...]
    resource: str
    redirect_url: str
    state: str
    verifier: str
    until: float = 0.0


def begin(
    found: Discovered,
    client: Client,
    scopes: tuple[str, ...],
    *,
    resource: str,
    redirect_url: str,
    until: float = 0.0,
) -> Begun:
    """Make an authorization request with PKCE; arguments as ``Begun``."""
    protocol = WebApplicationClient(client.client_id)
    verifier = str(protocol.create_code_verifier(_VERIFIER_CHARS))
    state = secrets.token_urlsafe(32)
    url = authorization_url(
        found.server.authorization_endpoint or "",
        {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect_url,
            "scope": " ".join(scopes),
            "state": state,
            "code_challenge": str(protocol.create_code_challenge(verifier, "S256")),
            "code_challenge_method": "S256",
            "resource": resource,
        },
    )
    return Begun(
        url=url,
        found=found,
        client=client,
        scopes=scopes,
        resource=resource,
        redirect_url=redirect_url,
        state=state,
        verifier=verifier,
        until=until,
    )


async def authorize(
    web: Web, begun: Begun, name: str, *, clock: Callable[[], float] = time.monotonic
) -> Token:
    """Get a token without a person.

    Args:
        web: requests.
        begun: the request.
        name: of the MCP server, for the words to an operator.
        clock: monotonic seconds.

    Raises:
        FlowError: it is refused, wants a person, or cannot be trusted.
    """
    answered = await web.get(begun.url, accept="text/html, application/json")
    if answered.status >= 400:
        raise FlowError(f"refuses the authorization request (HTTP {answered.status})")
    redirects = answered.status in _REDIRECTS
    if not redirects or answered.location.partition("?")[0] != begun.redirect_url:
        host = urlsplit(begun.url).hostname
        raise FlowError(f"wants a person to sign in or consent at {host}: mesh server login {name}")
    return await redeem(web, begun, answered.location, clock=clock)


async def redeem(
    web: Web, begun: Begun, location: str, *, clock: Callable[[], float] = time.monotonic
) -> Token:
    """Get a token for the answer to an authorization request.

    Args:
        web: requests.
        begun: the request.
        location: where the authorization server redirected.
        clock: monotonic seconds.

    Raises:
        FlowError: the answer is an error, not to this request, or gives no token.
    """
    code = code_of(location, begun.redirect_url, begun.state, begun.found.server)
    if code is None:
        raise FlowError(f"did not answer to {begun.redirect_url}")
    form = {
        "code": code,
        "redirect_uri": begun.redirect_url,
        "code_verifier": begun.verifier,
        "resource": begun.resource,
    }
    endpoint = begun.found.server.token_endpoint or ""
    return await ask_token(web, endpoint, begun.client, "authorization_code", form, clock=clock)
