"""What a client can be asked: the capabilities it declared, as far as its revision knows them.

Upstreams see exactly what the caller declared, per call. An old client may declare what its
revision has no message for; that is left out, so that nobody asks what cannot be asked.
"""

import msgspec

from mcp_proto.askable import missing
from mcp_proto.members import pick, remove, splice
from mcp_proto.versions import Feature, Revision, has

__all__ = ["known_to", "missing"]


def known_to(revision: Revision, capabilities: bytes | msgspec.Raw) -> bytes:
    """Declared capabilities less what a revision cannot express.

    Args:
        revision: of the session.
        capabilities: ``ClientCapabilities`` object as the client sent it.

    Returns:
        The same bytes where nothing has to go.
    """
    data = bytes(capabilities) or b"{}"
    if not has(revision, Feature.ELICITATION_FORM):
        data = remove(data, "elicitation")
    elif not has(revision, Feature.ELICITATION_URL):
        data = _without(data, "elicitation", "url")
    if not has(revision, Feature.SAMPLING_TOOLS):
        data = _without(data, "sampling", "tools", "context")
    return data


def _without(data: bytes, name: str, *parts: str) -> bytes:
    found = pick(data, name).get(name)
    if found is None or bytes(found)[:1] != b"{":
        return data
    kept = remove(found, *parts)
    return data if kept == bytes(found) else splice(data, {name: kept})
