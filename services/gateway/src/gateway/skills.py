"""The methods of the skills extension: one list of all servers, and each skill from its own.

A list asks every server that has skills, at once; one that fails or is slow delays nothing and is
left out, and then nobody may keep the list.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.access import View
from gateway.core.answers import Signature
from gateway.core.caching import read_hints
from gateway.core.requests import ModernRequest, text_member
from gateway.core.skills import (
    SKILL_METHODS,
    SkillUris,
    merged_skills,
    skill_servers,
    skills_of,
    with_uris,
)
from gateway.identity import Caller
from mcp_proto.errors import MeshError
from mcp_proto.members import pick, splice

__all__ = ["PAGES_MAX", "AskServer", "Skills"]

PAGES_MAX = 20
"""Pages of one server's list."""

AskServer = Callable[[ModernRequest, bytes, Caller, str, str], Awaitable[bytes]]
"""(request, params, caller, server, name) → signed result of that server."""

_log = logging.getLogger(__name__)


class Skills:
    """Serves ``SKILL_METHODS``.

    Args:
        ask: one request to one server.
        signature: of this gateway.
    """

    def __init__(self, ask: AskServer, signature: Signature) -> None:
        self._ask = ask
        self._signature = signature

    async def serve(self, request: ModernRequest, caller: Caller, view: View) -> bytes:
        """Answer one request of the extension.

        Raises:
            MeshError: ``method`` when no visible server has skills, ``not_found``, and what the
                server says.
        """
        assert request.method in SKILL_METHODS
        servers = skill_servers(view, request.method)
        uris = SkillUris(view, request.endpoint)
        if request.method == "skills/list":
            return await self._list(request, caller, servers, uris)
        server, own = uris.owner(text_member(request.params, "uri"), servers)
        params = splice(request.params, {"uri": msgspec.json.encode(own)})
        result = await self._ask(request, params, caller, server, "")
        return read_hints(with_uris(result, uris.listed(server)), repeated=False)

    async def _list(
        self, request: ModernRequest, caller: Caller, servers: tuple[str, ...], uris: SkillUris
    ) -> bytes:
        answers = await asyncio.gather(
            *(self._pages(request, caller, server) for server in servers)
        )
        pages = [page for _, found in answers for page in found or ()]
        whole = all(found is not None for _, found in answers)
        ttl_ms = min((_ttl_ms(page) for page in pages), default=0) if whole else 0
        entries = (
            (server, (one for page in found or () for one in skills_of(page)))
            for server, found in answers
        )
        body = b'{"resultType":"complete","skills":%b,"ttlMs":%d,"cacheScope":"private"}' % (
            merged_skills(entries, uris),
            ttl_ms,
        )
        return self._signature.sign(msgspec.Raw(body), "")

    async def _pages(
        self, request: ModernRequest, caller: Caller, server: str
    ) -> tuple[str, list[bytes] | None]:
        """All pages of one server; None when it does not answer as it should."""
        pages: list[bytes] = []
        members: dict[str, bytes] = {}
        try:
            meta = pick(request.params, "_meta")
            for _ in range(PAGES_MAX):
                params = splice(splice(b"{}", meta), members)
                page = await self._ask(request, params, caller, server, "")
                skills_of(page)
                pages.append(page)
                cursor = pick(page, "nextCursor").get("nextCursor")
                if cursor is None:
                    break
                members = {"cursor": bytes(cursor)}
        except MeshError as error:
            _log.info("skills are left out: %s", error.message, extra={"server": server})
            return server, None
        return server, pages


def _ttl_ms(page: bytes) -> int:
    raw = bytes(pick(page, "ttlMs").get("ttlMs", b""))
    return int(raw) if raw.isdigit() and len(raw) < 12 else 0
