"""Contract of ``registry``, part two: virtual servers, curated sets over several servers."""

from typing import Any, Literal

import msgspec

from mcp_proto.contracts import Operation
from mcp_proto.contracts.registry import SERVICE, Empty
from mcp_proto.subjects import PLATFORM

__all__ = [
    "Argument",
    "ListVirtuals",
    "VirtualList",
    "VirtualPrompt",
    "VirtualPut",
    "VirtualRecord",
    "VirtualRemove",
    "VirtualResource",
    "VirtualServer",
    "VirtualStatus",
    "VirtualTool",
    "virtual_list",
    "virtual_put",
    "virtual_remove",
]


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A table people write: a misspelt key is refused."""


class Argument(_Strict, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a virtual server does to one top-level argument of a tool; one of the three.

    Attributes:
        value: the argument always has this JSON value; it is not shown and may not be sent.
        hidden: True = not shown and never sent; the tool's own default holds.
        default: shown, no longer required, and this JSON value when the caller leaves it out.
    """

    value: Any = msgspec.UNSET
    hidden: bool = False
    default: Any = msgspec.UNSET


class _Item(_Strict, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every item has: a server, other words for it, and who sees it.

    Attributes:
        server: name of the server that owns it.
        title: shown instead of the owner's title; "" = as it is.
        description: shown instead of the owner's description; "" = as it is.
        roles: only callers with one of these roles; () = all. Never gives a right.
    """

    server: str
    title: str = ""
    description: str = ""
    roles: tuple[str, ...] = ()


class VirtualTool(_Item, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tools of one server.

    Attributes:
        tool: the owner's own name, or a glob (``*``, ``?``).
        name: shown name; "" = the owner's. With a glob it holds one ``*`` for that name.
        arguments: by name of a top-level argument.
    """

    tool: str
    name: str = ""
    arguments: dict[str, Argument] = {}


class VirtualPrompt(
    _Item, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Prompts of one server; ``prompt`` and ``name`` as in ``VirtualTool``."""

    prompt: str
    name: str = ""


class VirtualResource(
    _Item, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Resources and resource templates of one server.

    Attributes:
        uri: a URI, the text of a URI template, or a glob over both; without ``*`` it is literal.
        shown_uri: URI shown instead; only for one URI. Results carry it too.
        name: shown instead of the owner's ``name``.
    """

    uri: str
    shown_uri: str = ""
    name: str = ""


class VirtualServer(
    _Strict, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A curated set of what other servers offer, served at ``/mcp/v/{name}``.

    The grant of the caller decides every item; a virtual server chooses, it never widens. For
    each tool, prompt or resource: items that name it literally decide, each on its own; if none
    does, the first glob that covers it decides alone.

    Attributes:
        name: of the endpoint; as names of servers.
        tenant: who sees it; ``_`` = every tenant.
        title: shown to clients (``serverInfo.title``).
        description: shown to clients (``serverInfo.description``).
        instructions: for the model; "" = those of its servers.
        tools: chosen tools.
        prompts: chosen prompts.
        resources: chosen resources and templates.
        tool_list: ``full``, ``search`` (only the search tools are listed), ``both``; "" = as the
            gateway is configured.
    """

    name: str
    tenant: str = PLATFORM
    title: str = ""
    description: str = ""
    instructions: str = ""
    tools: tuple[VirtualTool, ...] = ()
    prompts: tuple[VirtualPrompt, ...] = ()
    resources: tuple[VirtualResource, ...] = ()
    tool_list: Literal["", "full", "search", "both"] = ""


class VirtualRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``{tenant}.{name}`` in ``mesh_virtuals``.

    ``defined``: ``runtime``, or ``config`` when the registry's own file declares it.
    """

    definition: VirtualServer
    defined: str = "runtime"


class VirtualPut(msgspec.Struct, frozen=True, kw_only=True):
    """Add or replace a virtual server."""

    definition: VirtualServer
    replace: bool = False


class VirtualRemove(msgspec.Struct, frozen=True, kw_only=True):
    """Remove a virtual server that was added at run time."""

    name: str
    tenant: str = PLATFORM


class ListVirtuals(msgspec.Struct, frozen=True, kw_only=True):
    """``tenant`` "" = all tenants."""

    tenant: str = ""


class VirtualStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``mesh virtual list``.

    Attributes:
        defined: as in ``VirtualRecord``.
        missing: what it names and nobody offers now (``server notes``, ``tool notes:read``);
            () = it is complete.
    """

    definition: VirtualServer
    defined: str
    missing: tuple[str, ...] = ()


class VirtualList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``virtual_list``, sorted by tenant and name."""

    virtuals: tuple[VirtualStatus, ...]


virtual_put = Operation(SERVICE, "virtual-put", VirtualPut, Empty)
virtual_remove = Operation(SERVICE, "virtual-remove", VirtualRemove, Empty)
virtual_list = Operation(SERVICE, "virtual-list", ListVirtuals, VirtualList)
