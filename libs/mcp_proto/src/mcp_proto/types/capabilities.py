"""What a client or a server says it can do.

Presence is the statement: an empty object means "yes, without options". Members whose options the
mesh does not read stay raw, so that nothing an extension puts there gets lost.
"""

import msgspec

from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "ClientCapabilities",
    "ElicitationCapability",
    "Icon",
    "Implementation",
    "PromptsCapability",
    "ResourcesCapability",
    "RootsCapability",
    "SamplingCapability",
    "ServerCapabilities",
    "ToolsCapability",
]


class _Open(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Icon(_Open, frozen=True, kw_only=True):
    """An icon. Since 2025-11-25. ``theme``: ``light`` or ``dark``."""

    src: str
    mime_type: str | None = None
    sizes: tuple[str, ...] | None = None
    theme: str | None = None


class Implementation(_Open, frozen=True, kw_only=True):
    """Name and version of a program; self-reported, never a basis for a decision."""

    name: str
    version: str
    title: str | None = None
    description: str | None = None
    website_url: str | None = None
    icons: tuple[Icon, ...] | None = None


class RootsCapability(_Open, frozen=True, kw_only=True):
    """The client lists roots (``list_changed``: and says when they change; legacy)."""

    list_changed: bool | None = None


class SamplingCapability(_Open, frozen=True, kw_only=True):
    """The client asks a model; ``tools`` and ``context`` present = with those features."""

    context: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT


class ElicitationCapability(_Open, frozen=True, kw_only=True):
    """The client asks its user. ``{}`` means form mode only."""

    form: msgspec.Raw = ABSENT
    url: msgspec.Raw = ABSENT

    @property
    def takes_form(self) -> bool:
        """Whether form mode is offered, also implicitly."""
        return bool(memoryview(self.form).nbytes) or not memoryview(self.url).nbytes

    @property
    def takes_url(self) -> bool:
        """Whether url mode is offered."""
        return bool(memoryview(self.url).nbytes)


class ClientCapabilities(_Open, frozen=True, kw_only=True):
    """``capabilities`` of ``initialize``, or of one modern request."""

    experimental: msgspec.Raw = ABSENT
    roots: RootsCapability | None = None
    sampling: SamplingCapability | None = None
    elicitation: ElicitationCapability | None = None
    tasks: msgspec.Raw = ABSENT
    extensions: dict[str, msgspec.Raw] | None = None


class ToolsCapability(_Open, frozen=True, kw_only=True):
    """The server has tools."""

    list_changed: bool | None = None


class PromptsCapability(_Open, frozen=True, kw_only=True):
    """The server has prompts."""

    list_changed: bool | None = None


class ResourcesCapability(_Open, frozen=True, kw_only=True):
    """The server has resources; ``subscribe``: and tells when one changes."""

    subscribe: bool | None = None
    list_changed: bool | None = None


class ServerCapabilities(_Open, frozen=True, kw_only=True):
    """``capabilities`` of the answer to ``initialize`` or ``server/discover``."""

    experimental: msgspec.Raw = ABSENT
    logging: msgspec.Raw = ABSENT
    completions: msgspec.Raw = ABSENT
    prompts: PromptsCapability | None = None
    resources: ResourcesCapability | None = None
    tools: ToolsCapability | None = None
    tasks: msgspec.Raw = ABSENT
    extensions: dict[str, msgspec.Raw] | None = None
