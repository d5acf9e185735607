"""Names to addresses, each address judged before anything connects to it.

The resolved addresses that pass are the very ones the connection is made to, so a name that
answers differently the second time gains nothing.
"""

import asyncio
import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from tool_runner.core.addresses import AddressRule, plain_host

__all__ = [
    "RESOLVE_S",
    "GuardedResolver",
    "RefusedAddressError",
    "check_literal",
    "keep_alive",
    "resolve",
]

RESOLVE_S = 5.0
"""Longest look-up of a name."""
_ADDRESSES_MAX = 16
_KEEPALIVE_IDLE_S = 30
_KEEPALIVE_EVERY_S = 10
_KEEPALIVE_PROBES = 3


class RefusedAddressError(OSError):
    """The address may not be connected to; the text is public."""


def check_literal(rule: AddressRule, host: str, port: int) -> None:
    """Judge a host that is an address itself; resolvers never see those.

    Raises:
        RefusedAddressError: it may not be connected to.
    """
    try:
        ipaddress.ip_address(plain_host(host).partition("%")[0])
    except ValueError:
        return
    problem = rule.problem(host, port, plain_host(host))
    if problem is not None:
        raise RefusedAddressError(problem)


async def resolve(
    rule: AddressRule, host: str, port: int, family: int = socket.AF_UNSPEC
) -> list[tuple[int, str]]:
    """Allowed addresses of a host, as (family, address).

    Raises:
        RefusedAddressError: every address is refused.
        OSError: the name cannot be resolved in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(f"the name {host} could not be resolved in time") from None
    allowed: list[tuple[int, str]] = []
    refused: str | None = None
    for kind, _, _, _, place in found[:_ADDRESSES_MAX]:
        address = str(place[0])
        problem = rule.problem(host, port, address)
        if problem is None:
            allowed.append((kind, address))
        else:
            refused = problem
    if not allowed:
        raise RefusedAddressError(refused or f"the name {host} has no address")
    return allowed


def keep_alive(connection: socket.socket) -> None:
    """Let the system notice a peer that is gone, however long nothing is said."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


class GuardedResolver(AbstractResolver):
    """The resolver of an aiohttp connector for one server."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See ``AbstractResolver``."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in await resolve(self._rule, host, port, family)
        ]

    async def close(self) -> None:
        """Nothing is held."""
