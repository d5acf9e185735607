"""Reads every list of a server, all pages of it, with guards against lists without end."""

import functools
import logging
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.codec import pick, splice
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from tool_runner.core.dialect import Handshake, discover_params
from tool_runner.core.offers import read_page, tools_of
from tool_runner.upstreams.upstream import Offer

__all__ = ["ITEMS_MAX", "PAGES_MAX", "Ask", "read_offer"]

PAGES_MAX = 100
ITEMS_MAX = 5_000
"""Items of one list; a catalogue of more is refused by the registry anyway."""

Ask = Callable[[str, bytes], Awaitable[msgspec.Raw | ErrorObject]]
"""Sends a request of our own with a bounded wait; gives result or error."""

_METHOD_NOT_FOUND = -32601
_log = logging.getLogger(__name__)


async def read_offer(name: str, handshake: Handshake, ask: Ask) -> Offer:
    """Read tools, resources, templates and prompts, as far as the server declares them.

    A list other than ``tools`` that fails is left empty: its tools are worth more.

    Raises:
        MeshError: ``upstream`` when the tools cannot be read.
    """
    declared = pick(handshake.capabilities)
    bare = not declared  # some servers declare nothing and still have tools
    # Only a modern server's hints are hints; an old one has no such member.
    ttls: dict[str, int] = {}
    if handshake.ttl_ms is not None:
        ttls["discover"] = handshake.ttl_ms
    read = functools.partial(_read_all, name, handshake, ask, ttls)
    read_optional = functools.partial(_read_optional, name, handshake, ask, ttls)
    tools: list[msgspec.Raw] = []
    if bare or "tools" in declared:
        tools = await read("tools/list", "tools")
    kept, problems = tools_of(tools)
    for problem in problems[:20]:
        _log.warning("left out of the catalogue: %s", problem, extra={"server": name})
    resources: list[msgspec.Raw] = []
    templates: list[msgspec.Raw] = []
    prompts: list[msgspec.Raw] = []
    if "resources" in declared:
        resources = await read_optional("resources/list", "resources")
        templates = await read_optional("resources/templates/list", "resourceTemplates")
    if "prompts" in declared:
        prompts = await read_optional("prompts/list", "prompts")
    return Offer(
        tools=kept,
        resources=tuple(resources),
        resource_templates=tuple(templates),
        prompts=tuple(prompts),
        capabilities=handshake.capabilities,
        server_info=handshake.server_info,
        instructions=handshake.instructions,
        ttls_ms=ttls,
    )


async def _read_optional(
    name: str, handshake: Handshake, ask: Ask, ttls: dict[str, int], method: str, member: str
) -> list[msgspec.Raw]:
    try:
        return await _read_all(name, handshake, ask, ttls, method, member)
    except MeshError as error:
        _log.warning("%s failed: %s", method, error.message, extra={"server": name})
        return []


async def _read_all(
    name: str, handshake: Handshake, ask: Ask, ttls: dict[str, int], method: str, member: str
) -> list[msgspec.Raw]:
    """All pages; the least ``ttlMs`` of them goes into ``ttls``."""
    base = discover_params() if handshake.modern else b"{}"
    params = base
    items: list[msgspec.Raw] = []
    seen: set[str] = set()
    for _ in range(PAGES_MAX):
        answer = await ask(method, params)
        if isinstance(answer, ErrorObject):
            if answer.code == _METHOD_NOT_FOUND:
                return items
            raise _unreadable(name, f"{method} failed: {answer.message[:200]}")
        page = read_page(answer, member)
        if page is None:
            raise _unreadable(name, f"{method} gave a malformed result")
        items += page.items
        if handshake.modern and page.ttl_ms is not None:
            ttls[member] = min(page.ttl_ms, ttls.get(member, page.ttl_ms))
        if page.cursor is None:
            return items[:ITEMS_MAX]
        if page.cursor in seen or len(items) >= ITEMS_MAX:
            break
        seen.add(page.cursor)
        params = splice(base, {"cursor": msgspec.json.encode(page.cursor)})
    _log.warning("%s does not end, it was cut", method, extra={"server": name})
    return items[:ITEMS_MAX]


def _unreadable(name: str, what: str) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        f"server {name}: {what}",
        data={"upstream": name},
        outcome=Outcome.NOT_EXECUTED,
    )
