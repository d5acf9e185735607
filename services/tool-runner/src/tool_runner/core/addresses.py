"""Which addresses an upstream server may be at: the decision of the SSRF guard.

A definition names a host; what that name resolves to, and where a redirect leads, is other
people's choice. So every address is judged just before it is connected to, in its plainest form:
an IPv4 address written as IPv6 counts as what it is.
"""

import ipaddress
from collections.abc import Iterable

import msgspec

from mcp_proto.server_definitions import network_of

__all__ = ["AddressRule", "Origin", "address_rule"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset(
    ipaddress.ip_address(one)
    for one in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254")
)
"""Where clouds tell a machine its own secrets; reached only when the very address is listed."""


class Origin(msgspec.Struct, frozen=True):
    """Host and port that a definition itself names; host in lower case, without a final dot."""

    host: str
    port: int


class AddressRule(msgspec.Struct, frozen=True, kw_only=True):
    """What one server may be connected to.

    Attributes:
        homes: what the definition names.
        trusted: the definition comes from the operator, so ``homes`` may be on this machine, or
            at a private address that it spells out.
        networks: allowed whatever they are.
        names: hosts that may be at private and loopback addresses.
    """

    homes: frozenset[Origin]
    trusted: bool = False
    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()

    def problem(self, host: str, port: int, address: str) -> str | None:
        """Why ``address`` (as resolved from ``host``) may not be connected to; None = it may."""
        found = _plainest(address)
        if found is None:
            return f"{host} is at no address that can be judged"
        if any(found.version == one.version and found in one for one in self.networks):
            return None
        name = plain_host(host)
        home = self.trusted and Origin(name, port) in self.homes
        kind = _kind(found)
        match kind:
            case "":
                return None
            case "loopback" if home or name in self.names:
                return None
            case "private" if name in self.names or (home and network_of(name) is not None):
                return None
            case _:
                return f"{host} is at a {kind} address, which is not allowed"


def address_rule(
    homes: Iterable[tuple[str, int]], *, trusted: bool, allowed: Iterable[str]
) -> AddressRule:
    """Build a rule.

    Args:
        homes: host and port of the URLs of the definition.
        trusted: see ``AddressRule``.
        allowed: names, addresses and networks.
    """
    networks: list[Network] = []
    names: set[str] = set()
    for entry in allowed:
        network = network_of(entry)
        if network is None:
            names.add(plain_host(entry))
        else:
            networks.append(network)
    return AddressRule(
        homes=frozenset(Origin(plain_host(host), port) for host, port in homes),
        trusted=trusted,
        networks=tuple(networks),
        names=frozenset(names),
    )


def plain_host(host: str) -> str:
    """A host in one form: lower case, no brackets, no final dot."""
    return host.strip("[]").rstrip(".").lower()


def _plainest(address: str) -> Address | None:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if found.teredo is not None:
            return found.teredo[1]
        return found.ipv4_mapped or found.sixtofour or _compatible(found) or found
    return found


def _compatible(found: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address in ``::a.b.c.d``, a form that some systems still connect to."""
    low = int(found)
    return ipaddress.IPv4Address(low) if 0xFFFF < low <= 0xFFFFFFFF else None


def _kind(found: Address) -> str:
    """What makes an address special; "" = it is one of the public internet."""
    if found in _METADATA:
        return "metadata"
    if found.is_loopback:
        return "loopback"
    if found.is_link_local:
        return "link-local"
    if found.is_multicast or found.is_unspecified:
        return "reserved"
    if found.is_private or not found.is_global:
        return "reserved" if found.is_reserved else "private"
    return ""
