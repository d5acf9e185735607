"""Access tokens for one server: had once, kept while valid, renewed, and widened when it asks.

What was learnt (``Kept``) outlives the connection: a server that restarts costs no new consent.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping

from mcp_proto.contracts.registry import OAuthClient
from mcp_proto.errors import MeshError, Outcome
from tool_runner.core.authorization import FlowError, scopes_of, union, wanted_scopes
from tool_runner.core.challenges import bearer_challenge
from tool_runner.upstreams.http_failures import failed
from tool_runner.upstreams.http_link import Denied, HttpLink
from tool_runner.upstreams.oauth.code_flow import Begun, authorize, begin, redeem
from tool_runner.upstreams.oauth.discovery import Discovered, discover
from tool_runner.upstreams.oauth.registration import configured, register
from tool_runner.upstreams.oauth.tokens import Client, Token, TokenRefusedError, ask_token
from tool_runner.upstreams.oauth.web import Web
from tool_runner.upstreams.secrets import secret

__all__ = ["Access", "Kept"]

_log = logging.getLogger(__name__)

FLOW_S = 20.0
"""Longest way to a token, all requests together."""
LOGIN_S = 600.0
"""How long a person may take."""
FLOWS_MAX = 6
FLOWS_WINDOW_S = 60.0
"""A server that refuses every token is not given more than this many in this time."""
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 60.0
"""How long a failure is answered from memory: doubles with each failure in a row."""
WIDENINGS_MAX = 4
"""Of these flows, so many may ask for more scopes: what callers do leaves room for renewals."""
REFRESH_TRUST_S = 60.0
"""A token that a refresh gave and that is refused within this time is not refreshed again."""
ISSUERS_MAX = 4
"""Registrations remembered per server."""


class Kept:
    """What is remembered of one server's authorization, in memory only."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.token: Token | None = None
        self.found: Discovered | None = None
        self.clients: dict[str, Client] = {}
        """Registered ones, by issuer: credentials of one are never shown to another."""
        self.asked: tuple[str, ...] = ()
        """Scopes of the present token, as asked for."""
        self.challenged: Mapping[str, str] = {}
        self.flows: deque[float] = deque(maxlen=FLOWS_MAX)
        self.failures = 0
        self.failure = ""
        self.retry_at = 0.0
        self.begun: Begun | None = None
        """What a person was asked by ``mesh server login``."""
        self.widen_at = 0.0
        """Until then no more scopes are asked for: the last time it failed."""


class Access:
    """Gives ``Authorization`` for one server.

    Args:
        oauth: of the definition.
        name: of the server.
        link: connections to it; the authorization server is reached over it too.
        kept: of earlier connections to the same server; None = there were none.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        oauth: OAuthClient,
        name: str,
        link: HttpLink,
        kept: Kept | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oauth = oauth
        self._name = name
        self._web = Web(link)
        self._kept = kept if kept is not None else Kept()
        self._clock = clock

    async def __call__(self, denied: Denied | None) -> str:
        """See ``http_link.Credential``.

        Raises:
            MeshError: ``upstream``, not executed: no token can be had.
        """
        kept = self._kept
        token = kept.token
        if denied is None:
            if token is not None and self._clock() < token.until:
                return token.authorization
            if token is None and not self._oauth.token_url:
                return ""  # its refusal says where tokens are had
        elif denied.status == 403 and not self._widens(denied):
            return ""
        async with kept.lock:
            token = kept.token
            stale = (
                denied is not None
                and token is not None
                and (token.authorization == denied.authorization)
            )
            if token is not None and not stale and self._clock() < token.until:
                return token.authorization
            kept.token = token = await self._bounded(denied)
            return token.authorization

    def _widens(self, denied: Denied) -> bool:
        """Whether other scopes may help: some are asked for that were not yet, and may be had.

        Scopes that the definition lists are all that is ever asked for.
        """
        kept, oauth = self._kept, self._oauth
        challenge = bearer_challenge(denied.challenges)
        if challenge.get("error") != "insufficient_scope" or oauth.scopes or oauth.token_url:
            return False
        if kept.token is not None and kept.token.authorization != denied.authorization:
            return True  # another call has got more meanwhile
        if self._clock() < kept.widen_at or self._flows() >= WIDENINGS_MAX:
            return False
        return not set(scopes_of(challenge.get("scope", ""))) <= set(kept.asked)

    def _flows(self) -> int:
        """Flows of the last minute."""
        since = self._clock() - FLOWS_WINDOW_S
        return sum(one > since for one in self._kept.flows)

    async def _bounded(self, denied: Denied | None) -> Token:
        kept = self._kept
        if kept.failure and self._clock() < kept.retry_at:
            raise self._error(kept.failure)
        if self._flows() >= FLOWS_MAX:
            raise self._error(f"gave {FLOWS_MAX} tokens within a minute and none is taken")
        kept.flows.append(self._clock())
        try:
            async with asyncio.timeout(FLOW_S):
                token = await self._obtain(denied)
        except (FlowError, TimeoutError) as error:
            what = _words(error)
            if denied is not None and denied.status == 403:
                # The token that there is still does what it did.
                kept.widen_at = self._clock() + RETRY_MAX_S
                raise self._error(what) from None
            kept.asked = ()  # they may be what it was refused for
            raise self._failed(what) from None
        kept.failures, kept.failure = 0, ""
        issuer = kept.found.server.issuer if kept.found is not None else self._oauth.token_url
        _log.info(
            "a token was had", extra={"server": self._name, "issuer": issuer, "scopes": kept.asked}
        )
        return token

    def _failed(self, what: str) -> MeshError:
        kept = self._kept
        wait_s = min(RETRY_FIRST_S * 2**kept.failures, RETRY_MAX_S)
        kept.failures = min(kept.failures + 1, 16)
        kept.failure, kept.retry_at = what, self._clock() + wait_s
        return self._error(what)

    def _error(self, what: str) -> MeshError:
        return failed(
            self._name, f"cannot be called: its authorization server {what}", Outcome.NOT_EXECUTED
        )

    # A person's part ----------------------------------------------------------------------------

    async def begin_login(self) -> str:
        """The page that a person must open; its answer goes to ``finish_login``.

        Raises:
            MeshError: ``upstream``, not executed: there is none.
        """
        kept = self._kept
        async with kept.lock:
            try:
                async with asyncio.timeout(FLOW_S):
                    found = kept.found = await self._found()
                    kept.begun = await self._begin(
                        found, self._scopes(found), until=self._clock() + LOGIN_S
                    )
            except (FlowError, TimeoutError) as error:
                raise self._error(_words(error)) from None
            return kept.begun.url

    async def finish_login(self, location: str) -> None:
        """Take the answer: where the authorization server sent the person's browser.

        Raises:
            MeshError: ``upstream``, not executed: it is no answer to the last ``begin_login``.
        """
        kept = self._kept
        async with kept.lock:
            begun, kept.begun = kept.begun, None
            if begun is None or self._clock() > begun.until:
                what = "has no login under way, or it took too long"
                raise failed(self._name, what, Outcome.NOT_EXECUTED)
            try:
                async with asyncio.timeout(FLOW_S):
                    token = await redeem(self._web, begun, location, clock=self._clock)
            except (FlowError, TimeoutError) as error:
                raise self._error(_words(error)) from None
            kept.token, kept.found, kept.asked = token, begun.found, begun.scopes
            kept.failures, kept.failure = 0, ""

    # The ways to a token ------------------------------------------------------------------------

    async def _obtain(self, denied: Denied | None) -> Token:
        oauth, kept = self._oauth, self._kept
        if oauth.token_url:
            return await self._direct()
        if denied is not None:
            kept.challenged = bearer_challenge(denied.challenges)
        found, before = kept.found, kept.found
        if found is None or (denied is not None and denied.status == 401):
            found = await self._found()
        if before is not None and before.server.issuer != found.server.issuer:
            # What one server gave is nothing to another.
            kept.token, kept.asked = None, ()
        kept.found = found
        refreshed = None if denied is not None and denied.status == 403 else await self._refresh()
        if refreshed is not None:
            return refreshed
        scopes = self._scopes(found)
        try:
            token = await self._granted(found, scopes)
        except TokenRefusedError as error:
            if error.code != "invalid_client" or found.server.issuer not in kept.clients:
                raise
            # The server has forgotten the client that it once registered.
            del kept.clients[found.server.issuer]
            token = await self._granted(found, scopes)
        kept.asked = scopes
        return token

    async def _found(self) -> Discovered:
        return await discover(
            self._web,
            self._kept.challenged.get("resource_metadata", ""),
            issuer=self._oauth.issuer,
            code=self._oauth.grant == "authorization_code",
        )

    async def _begin(
        self, found: Discovered, scopes: tuple[str, ...], *, until: float = 0.0
    ) -> Begun:
        return begin(
            found,
            await self._client(found, scopes),
            scopes,
            resource=self._oauth.resource or found.resource,
            redirect_url=self._oauth.redirect_url,
            until=until,
        )

    def _scopes(self, found: Discovered) -> tuple[str, ...]:
        oauth, kept = self._oauth, self._kept
        if oauth.scopes:
            return oauth.scopes
        lasting = oauth.grant == "authorization_code"
        asked = wanted_scopes(
            kept.challenged.get("scope", ""), found.metadata, found.server, lasting=lasting
        )
        return union(kept.asked, asked)

    async def _direct(self) -> Token:
        oauth = self._oauth
        post = oauth.client_auth == "post"
        client = Client(
            client_id=oauth.client_id,
            secret=secret(oauth.client_secret, self._name),
            method="client_secret_post" if post else "client_secret_basic",
        )
        form = {
            "scope": " ".join(oauth.scopes),
            "resource": oauth.resource or self._web.server_url,
        }
        return await self._ask(oauth.token_url, client, "client_credentials", form)

    async def _granted(self, found: Discovered, scopes: tuple[str, ...]) -> Token:
        oauth = self._oauth
        if oauth.grant == "authorization_code":
            begun = await self._begin(found, scopes)
            return await authorize(self._web, begun, self._name, clock=self._clock)
        client = await self._client(found, scopes)
        form = {"scope": " ".join(scopes), "resource": oauth.resource or found.resource}
        endpoint = found.server.token_endpoint or ""
        return await self._ask(endpoint, client, "client_credentials", form)

    async def _refresh(self) -> Token | None:
        """A token by the refresh token; None when there is none, or it gives nothing any more."""
        kept, token, found = self._kept, self._kept.token, self._kept.found
        if token is None or found is None or not token.refresh:
            return None
        if token.refreshed and self._clock() - token.refreshed < REFRESH_TRUST_S:
            return None
        client = await self._client(found, kept.asked)
        form = {
            "refresh_token": token.refresh,
            "resource": self._oauth.resource or found.resource,
        }
        try:
            fresh = await self._ask(
                found.server.token_endpoint or "", client, "refresh_token", form
            )
        except TokenRefusedError:
            return None
        # A server that rotates none lets the old one be used again (RFC 6749, 6).
        return _with_refresh(fresh, fresh.refresh or token.refresh)

    async def _client(self, found: Discovered, scopes: tuple[str, ...]) -> Client:
        issuer = found.server.issuer
        ours = configured(self._oauth, self._name, found.server)
        if ours is not None:
            return ours
        clients = self._kept.clients
        known = clients.get(issuer)
        if known is None or (known.until and self._clock() >= known.until):
            known = await register(
                self._web, found.server, self._oauth.redirect_url, scopes, clock=self._clock
            )
            while len(clients) >= ISSUERS_MAX:
                del clients[next(iter(clients))]
            clients[issuer] = known
        return known

    async def _ask(self, endpoint: str, client: Client, grant: str, form: dict[str, str]) -> Token:
        return await ask_token(self._web, endpoint, client, grant, form, clock=self._clock)


def _words(error: FlowError | TimeoutError) -> str:
    return str(error) if isinstance(error, FlowError) else "gave no token in time"


def _with_refresh(token: Token, refresh: str) -> Token:
    return Token(
        authorization=token.authorization,
        until=token.until,
        refresh=refresh,
        refreshed=token.refreshed,
    )
