"""Access tokens for one server by OAuth 2 client credentials, fetched once and kept while valid.

The token endpoint is reached over the server's own link, so its address is judged and its answer
bounded like everything else; what goes over the wire and what comes back is read by oauthlib.
"""

import asyncio
import base64
import time
from collections.abc import Callable
from urllib.parse import quote

import aiohttp
import msgspec
from oauthlib.oauth2 import BackendApplicationClient
from oauthlib.oauth2.rfc6749.errors import OAuth2Error
from yarl import URL

from mcp_proto.contracts.registry import OAuthClient
from mcp_proto.errors import MeshError, Outcome
from tool_runner.upstreams.http_failures import failed
from tool_runner.upstreams.http_link import HttpLink, read_body
from tool_runner.upstreams.secrets import secret

__all__ = ["ClientCredentials"]

TOKEN_BYTES_MAX = 64 * 1024
TOKEN_S = 10.0
"""Longest fetch of a token."""
LIFETIME_S = 300.0
"""Of a token whose server does not say."""
MARGIN_S = 30.0
"""A token is renewed this long before it expires, at most a fifth of its life."""
REFETCH_S = 1.0
"""A token that was refused is fetched again at most this often."""


class _Token(msgspec.Struct, frozen=True):
    authorization: str
    until: float
    fetched: float


class ClientCredentials:
    """Gives ``Authorization`` for one server.

    Args:
        client: of the definition.
        server: its name.
        link: connections; ``resource`` defaults to its URL.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: OAuthClient,
        server: str,
        link: HttpLink,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._client = client
        self._server = server
        self._link = link
        self._token: _Token | None = None
        self._fetching = asyncio.Lock()

    async def __call__(self, again: bool) -> str:
        """See ``http_link.Credential``.

        Raises:
            MeshError: ``upstream``, not executed: no token can be had.
        """
        before = self._token
        if before is not None and not again and self._clock() < before.until:
            return before.authorization
        async with self._fetching:
            token = self._token
            fresh = token is not None and (
                token is not before or self._clock() - token.fetched < REFETCH_S
            )
            if token is None or not fresh:
                token = self._token = await self._fetch()
            return token.authorization

    async def _fetch(self) -> _Token:
        try:
            async with asyncio.timeout(TOKEN_S):
                try:
                    status, body = await self._ask()
                except (MeshError, aiohttp.ClientError, OSError):
                    # A kept connection may just have been closed; a token may be asked for twice.
                    status, body = await self._ask()
        except TimeoutError:
            raise self._error("gave no token in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._error(f"broke off ({type(error).__name__})") from None
        except MeshError as error:
            raise self._error(f"failed: {error.message}") from None
        if body is None:
            raise self._error("answered with more than a token")
        now = self._clock()
        try:
            said = self._protocol().parse_request_body_response(body.decode(errors="replace"))
        except (OAuth2Error, ValueError, TypeError, AttributeError, Warning) as error:
            code = error.error if isinstance(error, OAuth2Error) else "a malformed answer"
            raise self._error(f"refused (HTTP {status}, {str(code)[:100]})") from None
        access = str(said.get("access_token", ""))
        kind = str(said.get("token_type", "Bearer"))
        if status >= 300 or not access.isascii() or not access.isprintable() or " " in access:
            raise self._error(f"gave no usable token (HTTP {status})")
        if kind.lower() != "bearer":
            raise self._error(f"gives tokens of type {kind[:32]!r}; only Bearer is known")
        lives_s = _seconds(said.get("expires_in"))
        until = now + lives_s - min(MARGIN_S, lives_s / 5)
        return _Token(f"Bearer {access}", until, now)

    async def _ask(self) -> tuple[int, bytes | None]:
        client = self._client
        key = secret(client.client_secret, self._server)
        extra = {"resource": client.resource or str(self._link.url.with_query(None))}
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        if client.client_auth == "post":
            extra["client_secret"] = key
        else:
            # RFC 6749, 2.3.1: both halves are form-encoded before they are joined.
            pair = f"{quote(client.client_id, safe='')}:{quote(key, safe='')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        body = self._protocol().prepare_request_body(
            scope=list(client.scopes) or None,
            include_client_id=client.client_auth == "post",
            **extra,
        )
        response = await self._link.send_bare(URL(client.token_url), headers, body.encode())
        try:
            return response.status, await read_body(response, TOKEN_BYTES_MAX)
        finally:
            response.close()

    def _protocol(self) -> BackendApplicationClient:
        return BackendApplicationClient(self._client.client_id)

    def _error(self, what: str) -> MeshError:
        return failed(
            self._server,
            f"cannot be called: its authorization server {what}",
            Outcome.NOT_EXECUTED,
        )


def _seconds(said: object) -> float:
    try:
        seconds = float(str(said))
    except ValueError:
        return LIFETIME_S
    return min(max(seconds, 1.0), 24 * 3600.0)
