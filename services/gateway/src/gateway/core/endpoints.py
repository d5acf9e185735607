"""What an endpoint shows: every server, one server as it is, or a chosen set.

An endpoint only chooses and renames; who may use what is decided by the caller's grant over the
resolved pair (server, name) at each of them. Names of endpoints: ``mcp_proto.endpoints``.
"""

import msgspec

from gateway.core.merge import Front, Lists
from gateway.core.routing import Offer, renamed
from gateway.core.search_tools import ToolsMode
from mcp_proto.endpoints import AGGREGATE, META, checked_endpoint
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick
from mcp_proto.policy import permits

__all__ = ["asked_of", "exact", "is_visible", "no_endpoint", "own_front"]


def asked_of(params: bytes | msgspec.Raw) -> str:
    """The endpoint that an ``initialize`` on a byte stream asks for in ``_meta``; "" = none.

    Raises:
        MeshError: ``params`` when it is no endpoint.
    """
    if META.encode() not in bytes(params):
        return AGGREGATE
    meta = pick(params, "_meta").get("_meta", b"")
    raw = pick(meta, META).get(META, b'""')
    return checked_endpoint(msgspec.json.decode(raw))


def no_endpoint() -> MeshError:
    """The same answer for what does not exist and for what the caller may not see."""
    return MeshError(ErrorKind.NOT_FOUND, "no such endpoint")


def exact(offer: Offer) -> Offer:
    """An offer under its server's own names, however long or odd; all else as it is listed."""
    return msgspec.structs.replace(
        offer,
        tools=tuple(
            tool
            if tool.listed == tool.name
            else msgspec.structs.replace(
                tool, listed=tool.name, entry=renamed(tool.entry, "name", tool.name) or tool.entry
            )
            for tool in offer.tools
        ),
        prompts=tuple(
            prompt
            if prompt.listed == prompt.name
            else msgspec.structs.replace(
                prompt,
                listed=prompt.name,
                entry=renamed(prompt.entry, "name", prompt.name) or prompt.entry,
            )
            for prompt in offer.prompts
        ),
    )


def own_front(offer: Offer) -> Front:
    """How the endpoint of one server presents itself: its own words and capabilities."""
    return Front(
        exact=True,
        instructions=offer.instructions,
        upstream=offer.server_info,
        tools=ToolsMode.FULL,
    )


def is_visible(lists: Lists, server: str, *, vacant: bool) -> bool:
    """Whether an endpoint is there for the caller of ``lists``.

    It is if the caller may use anything of it. Where nothing is behind it at all, a virtual
    server is there, and a server if a rule covers it.

    Args:
        lists: of the caller, at the endpoint.
        server: the one server behind it; "" = it is a virtual server.
        vacant: nothing is behind it, whoever asks.
    """
    if not lists.empty:
        return True
    return vacant and (not server or permits(lists.view.grant, server, "", "") is None)
