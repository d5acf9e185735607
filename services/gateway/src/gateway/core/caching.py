"""How long a client may keep a merged answer, and who else may see it (MCP 2026-07-28, "Caching").

A merged list may be kept as long as its most impatient source allows; zero is an answer, not the
absence of one. A source of the old eras says nothing, for it the configured default stands. The
scope is always private: what a list holds, and who may read a resource, depends on tenant and
grant, and "public" would let a shared cache give it to another tenant.
"""

from collections.abc import Iterable

from gateway.core.routing import Offer
from mcp_proto.members import pick, splice

__all__ = ["DISCOVER", "TTL_MAX_MS", "merged_ttl_ms", "read_hints"]

DISCOVER = "discover"
"""Name of ``server/discover`` among the hints of a catalogue."""

TTL_MAX_MS = 24 * 3600 * 1000
"""A day: grants and servers change, and a client that keeps a list hears of neither."""


def merged_ttl_ms(offers: Iterable[Offer], what: str, default_ms: int) -> int:
    """How long the merged ``what`` may be kept.

    Args:
        offers: of the visible servers.
        what: member of the list's result (``tools``), or ``DISCOVER``.
        default_ms: for a source without a hint, and when nothing contributes.
    """
    hints = [
        one.ttls_ms.get(what, default_ms)
        for one in offers
        if what in one.ttls_ms or _contributes(one, what)
    ]
    return min(TTL_MAX_MS, max(0, min(hints, default=default_ms)))


def _contributes(one: Offer, what: str) -> bool:
    match what:
        case "tools":
            return bool(one.tools)
        case "prompts":
            return bool(one.prompts)
        case "resources":
            return bool(one.resources)
        case "resourceTemplates":
            return bool(one.templates)
        case _:
            return True


def read_hints(result: bytes, *, repeated: bool) -> bytes:
    """A ``resources/read`` result with hints that hold for this caller alone.

    Args:
        result: complete or not; what asks for input carries no hints.
        repeated: it answers a request that carried input, which nobody may keep.
    """
    seen = pick(result, "resultType", "ttlMs", "cacheScope")
    if bytes(seen.get("resultType", b'"complete"')) != b'"complete"':
        return result
    members: dict[str, bytes] = {}
    if bytes(seen.get("cacheScope", b"")) != b'"private"':
        members["cacheScope"] = b'"private"'
    ttl = bytes(seen.get("ttlMs", b""))
    if repeated or not ttl.isdigit():
        if ttl != b"0":
            members["ttlMs"] = b"0"
    elif len(ttl) > len(str(TTL_MAX_MS)) or int(ttl) > TTL_MAX_MS:
        members["ttlMs"] = b"%d" % TTL_MAX_MS
    return splice(result, members) if members else result
