"""How servers are hosted on this runner: what is the same for all of them."""

from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.discovery import OPERATORS_OWN
from mcp_proto.subjects import PLATFORM
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request

__all__ = ["Fit", "HostSettings", "operators_own"]


def operators_own(definition: ServerDefinition) -> bool:
    """Shared servers are the operator's, but for those that others announced somewhere."""
    return definition.tenant == PLATFORM and definition.origin in OPERATORS_OWN


Fit = Callable[[ServerDefinition, Request, bytes], Awaitable[bytes]]


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are hosted.

    Attributes:
        stdio: of servers that are children.
        network: of servers behind an address.
        answer_s: as in ``ChildConfig``.
        fit: makes a large result one that an edge can deliver; None = it goes as it is.
        trusted: whether a definition is the operator's own (``core.addresses.AddressRule``).
    """

    stdio: StdioSettings = StdioSettings()
    network: NetworkSettings = NetworkSettings()
    answer_s: float = 5.0
    fit: Fit | None = None
    trusted: Callable[[ServerDefinition], bool] = operators_own
