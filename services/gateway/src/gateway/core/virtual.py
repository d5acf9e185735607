"""Virtual servers: which things of which servers one shows, as what, with which arguments.

A definition and what the servers offer become ``Offer`` objects again, renamed and rewritten once,
so that a view, a list and a call work on them as on any other. Nothing is added to what a caller
may do: an item keeps its owner's server and name, and the grant is asked about those.
"""

from collections.abc import Callable, Iterable

import msgspec

from gateway.core.merge import Front
from gateway.core.paramheaders import ParamHeader
from gateway.core.routing import Item, Offer, Template, Tool
from gateway.core.search_tools import ToolsMode
from gateway.core.toolargs import ArgumentRules, argument_rules, reshaped
from mcp_proto.contracts.virtuals import VirtualPrompt, VirtualResource, VirtualServer, VirtualTool
from mcp_proto.members import splice
from mcp_proto.names import listed_name
from mcp_proto.virtual_servers import Covering, shown_name

__all__ = ["Choice", "choose", "roles_that_matter", "virtual_front"]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a virtual server shows to callers with certain roles.

    ``hidden`` counts what is left out because its shown name is taken or cannot be written;
    ``barred`` are URIs that other roles may read: no template reaches them either; ``vacant`` is
    True when nothing of what it names exists now, whoever asks.
    """

    offers: tuple[Offer, ...]
    hidden: int
    barred: frozenset[str]
    vacant: bool


def roles_that_matter(definition: VirtualServer, roles: Iterable[str]) -> tuple[str, ...]:
    """Those of a caller's roles that the definition names: callers alike in them see the same."""
    items = (*definition.tools, *definition.prompts, *definition.resources)
    named = {role for item in items for role in item.roles}
    return tuple(sorted(named.intersection(roles)))


def virtual_front(definition: VirtualServer) -> Front:
    """How the endpoint presents itself."""
    about = {"title": definition.title, "description": definition.description}
    return Front(
        instructions=definition.instructions or None,
        about={name: text for name, text in about.items() if text},
        tools=ToolsMode(definition.tool_list) if definition.tool_list else None,
    )


def choose(
    definition: VirtualServer,
    offer_of: Callable[[str], Offer | None],
    roles: Iterable[str],
) -> Choice:
    """Choose and rename.

    Args:
        definition: valid.
        offer_of: a server of the tenant by its name.
        roles: of the caller.
    """
    return _Chooser(definition, frozenset(roles)).run(offer_of)


class _Chooser:
    """One pass over the servers that a definition names, in its order."""

    def __init__(self, definition: VirtualServer, roles: frozenset[str]) -> None:
        self._definition = definition
        self._roles = roles
        self._by_tool = Covering(definition.tools)
        self._by_prompt = Covering(definition.prompts)
        self._by_uri = Covering(definition.resources)
        self._hidden = 0
        self._found = False
        self._tools: set[str] = set()
        self._prompts: set[str] = set()
        self._barred: set[str] = set()

    def run(self, offer_of: Callable[[str], Offer | None]) -> Choice:
        definition = self._definition
        items = (*definition.tools, *definition.prompts, *definition.resources)
        chosen: list[Offer] = []
        for server in dict.fromkeys(item.server for item in items):
            offer = offer_of(server)
            if offer is not None:
                chosen.append(self._of(offer))
        return Choice(
            offers=tuple(chosen),
            hidden=self._hidden,
            barred=frozenset(self._barred),
            vacant=not self._found,
        )

    def _of(self, offer: Offer) -> Offer:
        server = offer.server
        tools = [
            made
            for tool in offer.tools
            for item in self._by_tool.of(server, tool.name)
            if (made := self._tool(item, tool)) is not None
        ]
        prompts = [
            made
            for prompt in offer.prompts
            for item in self._by_prompt.of(server, prompt.name)
            if (made := self._prompt(item, prompt)) is not None
        ]
        resources = [
            made
            for resource in offer.resources
            for item in self._by_uri.of(server, resource.name)
            if (made := self._resource(item, resource)) is not None
        ]
        templates = [
            made
            for template in offer.templates
            for item in self._by_uri.of(server, template.listed)
            if (made := self._template(item, template)) is not None
        ]
        return msgspec.structs.replace(
            offer,
            tools=tuple(tools),
            prompts=tuple(prompts),
            resources=tuple(resources),
            templates=tuple(templates),
        )

    def _sees(self, item: VirtualTool | VirtualPrompt | VirtualResource) -> bool:
        self._found = True
        return not item.roles or not self._roles.isdisjoint(item.roles)

    def _takes(self, name: str, taken: set[str]) -> bool:
        if name in taken:
            self._hidden += 1
            return False
        taken.add(name)
        return True

    def _tool(self, item: VirtualTool, tool: Tool) -> Tool | None:
        if not self._sees(item):
            return None
        listed = _listed(item, tool.server, tool.name)
        if not self._takes(listed, self._tools):
            return None
        entry = _reworded(tool.entry, name=listed, title=item.title, description=item.description)
        rules = argument_rules(item.arguments)
        return msgspec.structs.replace(
            tool,
            listed=listed,
            entry=entry if rules is None else reshaped(entry, rules),
            headers=_demanded(tool, rules),
            arguments=rules,
        )

    def _prompt(self, item: VirtualPrompt, prompt: Item) -> Item | None:
        if not self._sees(item):
            return None
        listed = _listed(item, prompt.server, prompt.name)
        if not self._takes(listed, self._prompts):
            return None
        entry = _reworded(prompt.entry, name=listed, title=item.title, description=item.description)
        return msgspec.structs.replace(prompt, listed=listed, entry=entry)

    def _resource(self, item: VirtualResource, resource: Item) -> Item | None:
        if not self._sees(item):
            self._barred.add(resource.name)
            return None
        listed = item.shown_uri or resource.listed
        entry = _reworded(
            resource.entry,
            uri=listed,
            name=item.name,
            title=item.title,
            description=item.description,
        )
        return msgspec.structs.replace(resource, listed=listed, entry=entry)

    def _template(self, item: VirtualResource, template: Template) -> Template | None:
        if not self._sees(item):
            return None
        if item.shown_uri:
            # Another template text would make URIs that nobody can take apart again.
            self._hidden += 1
            return None
        entry = _reworded(
            template.entry, name=item.name, title=item.title, description=item.description
        )
        return msgspec.structs.replace(template, entry=entry)


def _listed(item: VirtualTool | VirtualPrompt, server: str, own: str) -> str:
    return listed_name(server, shown_name(item, own) or own, prefixed=False)


def _reworded(entry: bytes, **members: str) -> bytes:
    """A listed entry with other words; all else byte for byte."""
    return splice(
        entry, {name: msgspec.json.encode(text) for name, text in members.items() if text}
    )


def _demanded(tool: Tool, rules: ArgumentRules | None) -> tuple[ParamHeader, ...]:
    """The ``Mcp-Param-*`` headers of arguments that a client still sends itself."""
    if rules is None:
        return tool.headers
    return tuple(one for one in tool.headers if one.path[0] not in rules.refused)
