"""URIs of what tenants store: ``mesh://artifacts/<key>`` and ``mesh://events/<topic>``.

One spelling is the right one: it stands in lists, links and notices, and only it can be watched.
Others that mean the same can be read. A key with ``.`` or ``..`` between slashes has its slashes
escaped, because URI libraries take such segments away.
"""

import re
from urllib.parse import quote, unquote_to_bytes

import msgspec

__all__ = ["ARTIFACTS_ROOT", "EVENTS_ROOT", "Wanted", "is_canonical", "uri_of", "wanted_of"]

ARTIFACTS_ROOT = "mesh://artifacts/"
EVENTS_ROOT = "mesh://events/"

_NUMBER = re.compile(r"[0-9]{1,16}")
_DOTS = frozenset((".", ".."))


class Wanted(msgspec.Struct, frozen=True):
    """What a URI names: a key or topic, and the numbers behind it."""

    name: str
    numbers: dict[str, int]


def uri_of(root: str, name: str) -> str:
    """The right spelling."""
    safe = ":" if not _DOTS.isdisjoint(name.split("/")) else "/:"
    return root + quote(name, safe=safe)


def wanted_of(root: str, uri: str, *known: str) -> Wanted | None:
    """What a URI asks for; None when it is none of these.

    Args:
        root: what it has to begin with.
        uri: as it was asked for.
        known: numbers that may stand in its query.
    """
    if not uri.startswith(root):
        return None
    path, _, query = uri.removeprefix(root).partition("?")
    try:
        name = unquote_to_bytes(path).decode()
    except UnicodeError:
        return None
    numbers: dict[str, int] = {}
    for pair in query.split("&") if query else ():
        member, _, value = pair.partition("=")
        if member not in known or member in numbers or not _NUMBER.fullmatch(value):
            return None
        numbers[member] = int(value)
    return Wanted(name, numbers)


def is_canonical(root: str, uri: str) -> bool:
    """Whether it is the right spelling of something; the root itself stands for everything."""
    wanted = wanted_of(root, uri)
    return wanted is not None and "?" not in uri and uri_of(root, wanted.name) == uri
