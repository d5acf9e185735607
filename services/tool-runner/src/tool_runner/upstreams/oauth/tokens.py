"""The token endpoint: what is sent to it, and what of its answer is believed."""

import base64
import math
import time
from collections.abc import Callable
from urllib.parse import quote

import msgspec
from oauthlib.oauth2.rfc6749.errors import OAuth2Error
from oauthlib.oauth2.rfc6749.parameters import parse_token_response, prepare_token_request

from tool_runner.core.authorization import FlowError
from tool_runner.upstreams.oauth.web import Web

__all__ = ["Client", "Token", "TokenRefusedError", "ask_token"]

LIFETIME_S = 300.0
"""Of client credentials whose server does not say."""
LIFETIME_MAX_S = 24 * 3600.0
MARGIN_S = 30.0
"""A token is renewed this long before it expires, at most a fifth of its life."""
TOKEN_CHARS_MAX = 16 * 1024


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are to one authorization server.

    Attributes:
        client_id: there.
        secret: "" = a public client.
        method: ``client_secret_basic``, ``client_secret_post`` or ``none``.
        until: monotonic seconds at which the registration ends; 0 = never.
    """

    client_id: str
    secret: str = ""
    method: str = "none"
    until: float = 0.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token.

    Attributes:
        authorization: value of the header.
        until: monotonic seconds from which it is renewed.
        refresh: refresh token; "" = none.
        refreshed: monotonic seconds at which a refresh token gave it; 0 = it came otherwise.
    """

    authorization: str
    until: float
    refresh: str = ""
    refreshed: float = 0.0


class TokenRefusedError(FlowError):
    """The endpoint said no; ``code`` is its error code, printable."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"refused (HTTP {status}, {code})")
        self.code = code


async def ask_token(
    web: Web,
    endpoint: str,
    client: Client,
    grant: str,
    form: dict[str, str],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Token:
    """Ask for a token.

    Args:
        web: requests.
        endpoint: of the authorization server.
        client: how we identify ourselves.
        grant: ``client_credentials``, ``authorization_code`` or ``refresh_token``.
        form: further parameters; those that are "" are left out.
        clock: monotonic seconds.

    Raises:
        TokenRefusedError: the endpoint refuses.
        FlowError: it gives no answer, or none that can be used.
    """
    headers: dict[str, str] = {}
    parameters: dict[str, str] = dict(form)
    if client.method == "client_secret_basic":
        # RFC 6749, 2.3.1: both halves are form-encoded before they are joined.
        pair = f"{quote(client.client_id, safe='')}:{quote(client.secret, safe='')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    else:
        parameters["client_id"] = client.client_id
        if client.method == "client_secret_post":
            parameters["client_secret"] = client.secret
    body = str(prepare_token_request(grant, include_client_id=True, **parameters))
    answered = await web.post(
        endpoint,
        body.encode(),
        "application/x-www-form-urlencoded",
        headers=headers,
        # A code or a rotated refresh token that is sent twice may cost everything it gave.
        repeatable=grant == "client_credentials",
    )
    return _read(answered.status, answered.body, grant, clock())


def _read(status: int, body: bytes, grant: str, now: float) -> Token:
    try:
        said = parse_token_response(body.decode(errors="replace"))
    except (OAuth2Error, ValueError, TypeError, AttributeError, Warning) as error:
        code = str(error.error) if isinstance(error, OAuth2Error) else "a malformed answer"
        plain = "".join(one for one in code[:100] if one.isascii() and one.isprintable())
        raise TokenRefusedError(status, plain) from None
    access = said.get("access_token", "")
    kind = str(said.get("token_type", "Bearer"))
    if status >= 300 or not isinstance(access, str) or not _usable(access):
        raise FlowError(f"gave no usable token (HTTP {status})")
    if kind.lower() != "bearer":
        raise FlowError(f"gives tokens of type {kind[:32]!r}; only Bearer is known")
    refresh = said.get("refresh_token", "")
    # A code may not be had again so easily: without a word its token is used until refused.
    unsaid_s = LIFETIME_S if grant == "client_credentials" else LIFETIME_MAX_S
    lives_s = _seconds(said.get("expires_in"), unsaid_s)
    return Token(
        authorization=f"Bearer {access}",
        until=now + lives_s - min(MARGIN_S, lives_s / 5),
        refresh=refresh if isinstance(refresh, str) and _usable(refresh) else "",
        refreshed=now if grant == "refresh_token" else 0.0,
    )


def _usable(token: str) -> bool:
    printable = token.isascii() and token.isprintable() and " " not in token
    return printable and 0 < len(token) <= TOKEN_CHARS_MAX


def _seconds(said: object, unsaid_s: float) -> float:
    try:
        seconds = float(str(said))
    except ValueError:
        return unsaid_s
    if math.isnan(seconds):
        return unsaid_s
    return min(max(seconds, 1.0), LIFETIME_MAX_S)
