"""What servers can do, and what of it the gateway promises: only what is really relayed.

An endpoint's capabilities are the union over the servers that a caller sees there. Extensions are
relayed by name: what one needs of a proxy is known for those in ``RELAYED`` alone.
"""

from collections.abc import Iterable

import msgspec

from mcp_proto.types.meta import SKILLS_EXTENSION, UI_EXTENSION

__all__ = ["RELAYED", "Abilities", "extensions_of", "read_abilities"]

RELAYED = frozenset({UI_EXTENSION, SKILLS_EXTENSION})
"""Extensions whose methods, results and URIs pass through the gateway as they should."""

_SETTINGS_BYTES_MAX = 4 * 1024
"""Settings of one extension of one server; they are repeated to every client."""


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What of a server's ``ServerCapabilities`` the gateway looks at.

    Attributes:
        names: names of its capabilities.
        subscribe: it tells of updated resources.
        extensions: settings of the relayed extensions that it declares, by identifier.
    """

    names: frozenset[str] = frozenset()
    subscribe: bool = False
    extensions: dict[str, dict[str, msgspec.Raw]] = {}


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_abilities(capabilities: msgspec.Raw) -> Abilities:
    """Read them; what is malformed is not there."""
    found = _object(capabilities)
    resources = _object(found.get("resources"))
    extensions = _object(found.get("extensions"))
    return Abilities(
        names=frozenset(found),
        subscribe=bytes(resources.get("subscribe", b"")) == b"true",
        extensions={
            name: _object(settings)
            for name, settings in extensions.items()
            if name in RELAYED and len(bytes(settings)) <= _SETTINGS_BYTES_MAX
        },
    )


def extensions_of(servers: Iterable[Abilities]) -> dict[str, dict[str, msgspec.Raw]]:
    """The union: an extension is there if one server has it, a setting is on if one has it on."""
    union: dict[str, dict[str, msgspec.Raw]] = {}
    for one in servers:
        for name, settings in one.extensions.items():
            known = union.setdefault(name, {})
            for key, value in settings.items():
                if key not in known or bytes(known[key]) == b"false":
                    known[key] = value
    return dict(sorted(union.items()))


def _object(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    if raw is None:
        return {}
    try:
        return _OBJECT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
