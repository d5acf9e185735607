"""Opening a conversation: ``initialize`` (legacy) and ``server/discover`` (modern)."""

import msgspec

from mcp_proto.types.capabilities import ServerCapabilities
from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import CacheHints

__all__ = [
    "DiscoverResult",
    "InitializeParams",
    "InitializeResult",
    "RequiredCapabilitiesData",
    "UnsupportedVersionData",
]


class InitializeParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``initialize`` as a correct client sends them (an edge reads more leniently).

    ``capabilities`` is a ``ClientCapabilities`` object, ``client_info`` an ``Implementation``.
    """

    protocol_version: str
    capabilities: msgspec.Raw
    client_info: msgspec.Raw


class InitializeResult(WithMeta, frozen=True, kw_only=True):
    """Answer to ``initialize``; ``server_info`` is an ``Implementation`` object."""

    protocol_version: str
    capabilities: ServerCapabilities
    server_info: msgspec.Raw
    instructions: str | None = None


class DiscoverResult(CacheHints, frozen=True, kw_only=True):
    """Answer to ``server/discover``; the server's name is in ``_meta``."""

    supported_versions: tuple[str, ...]
    capabilities: ServerCapabilities
    instructions: str | None = None


class UnsupportedVersionData(msgspec.Struct, frozen=True, kw_only=True):
    """``data`` of error -32022."""

    supported: tuple[str, ...]
    requested: str


class RequiredCapabilitiesData(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``data`` of error -32021: a ``ClientCapabilities`` object with what is missing."""

    required_capabilities: msgspec.Raw
