"""Makes the connection that a server's definition asks for."""

import time
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from tool_runner.core.addresses import AddressRule, address_rule
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import Handshake
from tool_runner.upstreams.children import Children
from tool_runner.upstreams.http import HttpSettings, HttpUpstream
from tool_runner.upstreams.http_link import Credential, HttpLink, LinkSettings
from tool_runner.upstreams.oauth import ClientCredentials
from tool_runner.upstreams.secrets import secret
from tool_runner.upstreams.sse import SseUpstream
from tool_runner.upstreams.stdio import StdioSettings, StdioUpstream
from tool_runner.upstreams.tcp import TcpUpstream
from tool_runner.upstreams.upstream import Listener, Upstream

__all__ = ["Life", "NetworkSettings", "make"]


class Life(Upstream, Protocol):
    """One life of a server, as its host sees it."""

    @property
    def pid(self) -> int:
        """Process id of a child; 0 = none."""
        ...

    @property
    def spoke(self) -> bool:
        """False when not a word was heard: so some servers take a question they do not know."""
        ...

    @property
    def handshake(self) -> Handshake | None:
        """What the server said of itself; None before."""
        ...

    def log_tail(self, lines: int = 20) -> list[str]:
        """Newest lines of its log, where it can be seen."""
        ...

    def kill(self) -> None:
        """End it at once; ``close`` must still follow."""
        ...


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How servers over the network are reached.

    Attributes:
        http: of HTTP servers.
        link: connections of HTTP servers.
        allow_networks: addresses, networks and names that any server may be at.
        tenant_secrets: patterns of secret references that tenants' own servers may use.
    """

    http: HttpSettings = HttpSettings()
    link: LinkSettings = LinkSettings()
    allow_networks: tuple[str, ...] = ()
    tenant_secrets: tuple[str, ...] = ()


def make(
    definition: ServerDefinition,
    children: Children,
    listener: Listener,
    *,
    stdio: StdioSettings,
    network: NetworkSettings,
    trusted: bool,
    legacy: bool = False,
    askers: Askers | None = None,
) -> Life:
    """Make it; nothing is started or connected yet.

    Args:
        definition: of the server; checked by ``server_types.server_problem``.
        children: starts and ends processes.
        listener: hears of changed lists.
        stdio: settings of children.
        network: settings of everything else.
        trusted: the definition is the operator's: see ``AddressRule``.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
    """
    if definition.transport == "stdio":
        return StdioUpstream(
            definition, children, listener, settings=stdio, legacy=legacy, askers=askers
        )
    rule = _rule(definition, network, trusted=trusted)
    if definition.transport == "tcp":
        return TcpUpstream(
            definition,
            rule,
            listener,
            start_timeout_s=network.http.start_timeout_s,
            legacy=legacy,
            askers=askers,
        )
    link = HttpLink(definition, rule, network.link)
    if definition.oauth is not None:
        link.credential = ClientCredentials(definition.oauth, definition.name, link)
    elif definition.bearer:
        link.credential = _bearer(definition)
    if definition.transport == "sse":
        return SseUpstream(
            definition,
            link,
            listener,
            start_timeout_s=network.http.start_timeout_s,
            askers=askers,
        )
    return HttpUpstream(
        definition, link, listener, settings=network.http, legacy=legacy, askers=askers
    )


def _bearer(definition: ServerDefinition) -> Credential:
    """Reads the secret again now and then: whoever rotates it restarts nothing."""
    known = ("", 0.0)

    async def read(again: bool) -> str:
        nonlocal known
        now = time.monotonic()
        if again or not known[0] or now - known[1] > _BEARER_S:
            known = (f"Bearer {secret(definition.bearer, definition.name)}", now)
        return known[0]

    return read


_BEARER_S = 10.0


def _rule(definition: ServerDefinition, network: NetworkSettings, *, trusted: bool) -> AddressRule:
    allowed = list(network.allow_networks)
    if trusted:
        allowed += definition.allow_private
    urls = [definition.url]
    if definition.oauth is not None:
        urls.append(definition.oauth.token_url)
    if network.link.proxy:
        allowed += _host_of(network.link.proxy)
    return address_rule(_homes(urls), trusted=trusted, allowed=allowed)


def _homes(urls: Iterable[str]) -> list[tuple[str, int]]:
    parts = [urlsplit(url) for url in urls]
    return [
        (one.hostname or "", one.port or (443 if one.scheme == "https" else 80)) for one in parts
    ]


def _host_of(url: str) -> list[str]:
    return [urlsplit(url).hostname or ""]
