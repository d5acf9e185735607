"""Makes the connection that a server's definition asks for."""

import ssl
import time
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_chassis.children import Children
from tool_runner.core.addresses import AddressRule, address_rule
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import Handshake
from tool_runner.upstreams.container import ContainerUpstream
from tool_runner.upstreams.http import HttpSettings, HttpUpstream
from tool_runner.upstreams.http_link import Credential, Denied, HttpLink, LinkSettings
from tool_runner.upstreams.oauth.access import Access, Kept
from tool_runner.upstreams.secrets import secret
from tool_runner.upstreams.sse import SseUpstream
from tool_runner.upstreams.stdio import StdioSettings, StdioUpstream
from tool_runner.upstreams.tcp import TcpUpstream
from tool_runner.upstreams.upstream import Listener, Upstream

__all__ = ["Life", "NetworkSettings", "make", "make_link"]


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
        bus: the runner's connection, for servers that are found on the broker; None = none.
    """

    http: HttpSettings = HttpSettings()
    link: LinkSettings = LinkSettings()
    allow_networks: tuple[str, ...] = ()
    tenant_secrets: tuple[str, ...] = ()
    bus: Bus | None = None


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
    kept: Kept | None = None,
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
        kept: tokens and what led to them, over all its lives.
    """
    if definition.transport == "stdio":
        piped = ContainerUpstream if definition.image else StdioUpstream
        return piped(
            definition,
            children,
            listener,
            settings=stdio,
            trusted=trusted,
            legacy=legacy,
            askers=askers,
        )
    if definition.transport == "tcp":
        rule = _rule(definition, network, trusted=trusted)
        return TcpUpstream(
            definition,
            rule,
            listener,
            start_timeout_s=network.http.start_timeout_s,
            legacy=legacy,
            askers=askers,
        )
    link = make_link(definition, network, trusted=trusted, kept=kept)
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


def make_link(
    definition: ServerDefinition,
    network: NetworkSettings,
    *,
    trusted: bool,
    tls: ssl.SSLContext | None = None,
    socket_path: str = "",
    kept: Kept | None = None,
) -> HttpLink:
    """HTTP to what a definition's ``url`` names, with its credential; not yet opened.

    Args:
        definition: of the server.
        network: settings.
        trusted: as in ``make``.
        tls: see ``HttpLink``.
        socket_path: see ``HttpLink``.
        kept: as in ``make``.
    """
    rule = _rule(definition, network, trusted=trusted)
    link = HttpLink(definition, rule, network.link, tls=tls, socket_path=socket_path)
    if definition.oauth is not None:
        link.credential = Access(definition.oauth, definition.name, link, kept)
    elif definition.bearer:
        link.credential = _bearer(definition)
    return link


def _bearer(definition: ServerDefinition) -> Credential:
    """Reads the secret again now and then: whoever rotates it restarts nothing."""
    known = ("", 0.0)

    async def read(denied: Denied | None) -> str:
        nonlocal known
        if denied is not None and denied.status == 403:
            return ""  # no other token is there
        now = time.monotonic()
        if denied is not None or not known[0] or now - known[1] > _BEARER_S:
            known = (f"Bearer {secret(definition.bearer, definition.name)}", now)
        return known[0]

    return read


_BEARER_S = 10.0


def _rule(definition: ServerDefinition, network: NetworkSettings, *, trusted: bool) -> AddressRule:
    allowed = list(network.allow_networks)
    # Of a server that was found, the address is somebody's word, but this list is the operator's.
    if trusted or (definition.origin and definition.tenant == PLATFORM):
        allowed += definition.allow_private
    urls = [definition.url]
    if definition.oauth is not None:
        # Named by whoever wrote the definition; what discovery finds is home to nobody.
        named = (definition.oauth.token_url, definition.oauth.issuer)
        urls += [url for url in named if url]
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
