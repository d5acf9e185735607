"""What of a virtual server nobody offers now: for people, who would search for it elsewhere."""

from collections.abc import Iterable, Mapping

import msgspec

from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.virtuals import VirtualServer
from mcp_proto.subjects import PLATFORM
from mcp_proto.virtual_servers import covers, is_glob, pattern_of

__all__ = ["MISSING_MAX", "unmet"]

MISSING_MAX = 100
"""What is missing is named up to here; more says no more."""


class _Named(msgspec.Struct, rename="camel"):
    name: str = ""
    uri: str = ""
    uri_template: str = ""


_NAMED = msgspec.json.Decoder(_Named)


def unmet(
    definition: VirtualServer, catalogs: Mapping[tuple[str, str], Catalog]
) -> tuple[str, ...]:
    """What a virtual server names and no catalogue has.

    Args:
        definition: the virtual server.
        catalogs: by tenant and server. A shared virtual server finds any tenant's.
    """
    missing: dict[str, None] = {}
    items = (*definition.tools, *definition.prompts, *definition.resources)
    owners = {item.server: _owner(definition, item.server, catalogs) for item in items}
    for server, catalog in owners.items():
        if catalog is None:
            missing[f"server {server}"] = None
    for kind, chosen in (
        ("tool", definition.tools),
        ("prompt", definition.prompts),
        ("resource", definition.resources),
    ):
        for item in chosen:
            catalog = owners[item.server]
            if catalog is None:
                continue
            names = _names(kind, catalog)
            if is_glob(item):
                met = any(covers(item, name) for name in names)
            else:
                met = pattern_of(item) in names
            if not met:
                missing[f"{kind} {item.server}:{pattern_of(item)}"] = None
    return tuple(missing)[:MISSING_MAX]


def _owner(
    definition: VirtualServer, server: str, catalogs: Mapping[tuple[str, str], Catalog]
) -> Catalog | None:
    known = catalogs.get((PLATFORM, server)) or catalogs.get((definition.tenant, server))
    if known is None and definition.tenant == PLATFORM:
        return next((one for (_, name), one in catalogs.items() if name == server), None)
    return known


def _names(kind: str, catalog: Catalog) -> set[str]:
    if kind == "tool":
        return {tool.name for tool in catalog.tools}
    if kind == "prompt":
        return set(_decoded(catalog.prompts, "name"))
    return {
        *_decoded(catalog.resources, "uri"),
        *_decoded(catalog.resource_templates, "uri_template"),
    }


def _decoded(raws: Iterable[msgspec.Raw], member: str) -> list[str]:
    found: list[str] = []
    for raw in raws:
        try:
            found.append(getattr(_NAMED.decode(raw), member))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return found
