"""MCP Apps: a tool names the ``ui://`` resource that shows its result; the two must not part."""

from collections.abc import Mapping

import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.members import pick, splice

__all__ = ["relinked_app"]

_FLAT = "ui/resourceUri"
"""How servers named it in ``_meta`` before the extension was final; still written beside it."""

_TEXT = msgspec.json.Decoder(str)


def relinked_app(entry: bytes, names: Mapping[str, str]) -> bytes:
    """A tool's entry whose ``_meta.ui.resourceUri`` says what clients find in the list.

    Args:
        entry: ``Tool`` object as listed.
        names: the server's own URI → the listed one, where they differ.

    Returns:
        The entry; the same bytes where nothing has to change.
    """
    if b"resourceUri" not in entry and b"\\u" not in entry:
        return entry
    try:
        meta = pick(entry, "_meta").get("_meta")
        if meta is None:
            return entry
        members: dict[str, bytes] = {}
        found = pick(meta, "ui", _FLAT)
        if "ui" in found:
            listed = _listed(pick(found["ui"], "resourceUri").get("resourceUri"), names)
            if listed is not None:
                members["ui"] = splice(found["ui"], {"resourceUri": listed})
        listed = _listed(found.get(_FLAT), names)
        if listed is not None:
            members[_FLAT] = listed
        return splice(entry, {"_meta": splice(meta, members)}) if members else entry
    except (MeshError, msgspec.DecodeError, UnicodeDecodeError):
        return entry


def _listed(raw: msgspec.Raw | None, names: Mapping[str, str]) -> bytes | None:
    uri = None if raw is None else names.get(_TEXT.decode(raw))
    return None if uri is None else msgspec.json.encode(uri)
