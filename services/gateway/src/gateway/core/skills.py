"""Skills of several servers in one list (extension ``io.modelcontextprotocol/skills``).

A skill is named by the URI of its ``SKILL.md``, and its files by URIs below it, whether they are
in ``resources/list`` or not. Where servers are merged, every such URI gets the server's name as
its first path segment: ``skill://pdf/SKILL.md`` of server ``docs`` is ``skill://docs/pdf/SKILL.md``.
So one skill never hides another, any gateway finds the server without asking anybody, and a URI
does not change because a second server arrives. The last path segment, which is the skill's name,
and the digests of the files stay as they are. At the endpoint of one server nothing is renamed.
"""

from collections.abc import Callable, Iterable

import msgspec

from gateway.core.access import View
from gateway.core.routing import Item
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick, splice
from mcp_proto.policy import permits
from mcp_proto.types.meta import SKILLS_EXTENSION

__all__ = [
    "DIRECTORY_READ",
    "SKILLS_MAX",
    "SKILL_METHODS",
    "SkillUris",
    "merged_skills",
    "skill_file",
    "skill_servers",
    "skills_of",
    "with_uris",
]

DIRECTORY_READ = "resources/directory/read"
SKILL_METHODS = ("skills/list", "skills/get", DIRECTORY_READ)
SKILLS_MAX = 2_000
"""Skills in one merged list."""

_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
Rename = Callable[[str], str]


def skill_servers(view: View, method: str = "skills/list") -> tuple[str, ...]:
    """Servers of a view that declare skills, in the order of their names.

    Raises:
        MeshError: ``method``: none does, or none that serves this method.
    """
    found: list[str] = []
    for one in view.table.offers:
        settings = one.abilities.extensions.get(SKILLS_EXTENSION)
        if settings is None:
            continue
        if method != DIRECTORY_READ or bytes(settings.get("directoryRead", b"")) == b"true":
            found.append(one.server)
    if not found:
        raise MeshError(ErrorKind.METHOD, "no server here has skills")
    return tuple(found)


class SkillUris:
    """Skill URIs of one view: as its clients know them, and as the servers do.

    Args:
        view: who may see what.
        endpoint: merged ones carry the server in the URI.
    """

    def __init__(self, view: View, endpoint: str) -> None:
        self._view = view
        self._merged = not endpoint.startswith("u/")

    def listed(self, server: str) -> Rename:
        """How a URI of ``server`` is listed."""
        if not self._merged:
            return _same

        def rename(uri: str) -> str:
            scheme, mark, rest = uri.partition("://")
            return f"{scheme}://{server}/{rest}" if mark else uri

        return rename

    def owner(self, uri: str, servers: Iterable[str]) -> tuple[str, str]:
        """The server behind a listed URI among ``servers``, and its own name for it.

        Raises:
            MeshError: ``not_found`` with ``data.uri``; the same for what may not be seen.
        """
        candidates = tuple(servers)
        if not self._merged:
            found = (candidates[0], uri) if candidates else None
        else:
            scheme, mark, rest = uri.partition("://")
            server, slash, path = rest.partition("/")
            known = bool(mark and slash) and server in candidates
            found = (server, f"{scheme}://{path}") if known else None
        if found is None or not self.visible(*found):
            raise MeshError(ErrorKind.NOT_FOUND, "unknown skill", data={"uri": uri[:2_048]})
        return found

    def visible(self, server: str, uri: str) -> bool:
        """Whether the caller may see this skill or file of a server: the rule of resources."""
        return permits(self._view.grant, server, uri, "") is None


def with_uris(result: bytes, rename: Rename) -> bytes:
    """A result of one server with its skill URIs as they are listed.

    Whatever of ``skill``, ``skills`` and ``resources`` it has is looked into.

    Raises:
        MeshError: it is malformed.
    """
    try:
        found = pick(result, "skill", "skills", "resources")
        made: dict[str, bytes] = {}
        if "skill" in found:
            made["skill"] = _skill(found["skill"], rename)
        for name in ("skills", "resources"):
            if name in found:
                made[name] = _joined(_skill(one, rename) for one in _RAWS.decode(found[name]))
        return splice(result, made) if made else result
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.UPSTREAM, "the server gave malformed skills") from None


def skills_of(page: bytes) -> list[tuple[str, msgspec.Raw]]:
    """The skills on a page of one server's ``skills/list``: URI and entry.

    Raises:
        MeshError: it is malformed.
    """
    try:
        raws = _RAWS.decode(pick(page, "skills").get("skills", b"[]"))
        return [(_TEXT.decode(pick(raw, "uri").get("uri", b'""')), raw) for raw in raws]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.UPSTREAM, "the server gave malformed skills") from None


def merged_skills(
    lists: Iterable[tuple[str, Iterable[tuple[str, msgspec.Raw]]]], uris: SkillUris
) -> bytes:
    """The value of ``skills`` in the merged list: what may be seen, by URI.

    Args:
        lists: server, and what ``skills_of`` found at it.
        uris: of the view.

    Raises:
        MeshError: an entry is malformed.
    """
    entries: dict[str, bytes] = {}
    for server, skills in lists:
        rename = uris.listed(server)
        for uri, raw in skills:
            if uri and uris.visible(server, uri) and len(entries) < SKILLS_MAX:
                entries[rename(uri)] = _skill(raw, rename)
    return _joined(entries[uri] for uri in sorted(entries))


def skill_file(view: View, endpoint: str, uri: str) -> Item | None:
    """The owner of a file of a skill, which need not be listed; None = no server has it as such.

    A ``skill://`` URI that names a server is that server's, whatever another one lists: else a
    server could put itself in the place of another one's skill.
    """
    if not uri.startswith("skill://") and view.table.resource(uri) is not None:
        return None
    try:
        server, own = SkillUris(view, endpoint).owner(uri, skill_servers(view))
    except MeshError:
        return None
    return Item(listed=uri, server=server, name=own, entry=b"")


def _skill(raw: msgspec.Raw, rename: Rename) -> bytes:
    """One skill or file: its URI, and those of its files where they are listed."""
    found = pick(raw, "uri", "resources")
    members: dict[str, bytes] = {}
    if "uri" in found:
        uri = _TEXT.decode(found["uri"])
        if rename(uri) != uri:
            members["uri"] = msgspec.json.encode(rename(uri))
    files = found.get("resources")
    if members and files is not None and bytes(files)[:1] == b"[":
        members["resources"] = _joined(_skill(one, rename) for one in _RAWS.decode(files))
    return splice(raw, members) if members else bytes(raw)


def _joined(pieces: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(pieces) + b"]"


def _same(uri: str) -> str:
    return uri
